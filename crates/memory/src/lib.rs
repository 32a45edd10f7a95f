//! Guest RAM: layout, backing, dirty tracking, discard.
