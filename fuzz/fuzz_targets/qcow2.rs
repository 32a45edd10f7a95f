#![no_main]
drystone_fuzz::target!(drystone_testkit::fuzz::qcow2);
