#![no_main]
drystone_fuzz::target!(drystone::control::fuzz::request);
