mod driver;
mod input;
mod output;
mod registers;
mod saving;
