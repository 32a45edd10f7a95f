#!/bin/sh
# The first program of the guest: what it finds of its processors. `test=load` on the command line: works on all of them until told to stop.
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
cpus=; n=0; while [ -d /sys/devices/system/cpu/cpu$n ]; do cpus="$cpus $n"; n=$((n+1)); done
echo "report release $(uname -r)"
echo "report online $(cat /sys/devices/system/cpu/online)"
echo "report cpuinfo $(grep -c ^processor /proc/cpuinfo)"
echo "report memory_kib $(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo)"
grep -m 1 ^flags /proc/cpuinfo
for n in $cpus; do
    t=/sys/devices/system/cpu/cpu$n/topology
    # One program: starting them is slow here.
    echo "report place$n" $(cat $t/physical_package_id $t/core_id $t/thread_siblings_list $t/core_siblings_list)
done
[ -x /bin/lscpu ] && lscpu | sed -n 's/^\(CPU(s)\|Thread(s) per core\|Core(s) per socket\|Socket(s)\|Hypervisor vendor\|Virtualization type\): */report lscpu \1: /p'
read -r source < /sys/devices/system/clocksource/clocksource0/current_clocksource; echo "report clocksource $source"

# What says how patient it is with processors and names them is no complaint, and it trusts no AMD processor's counters across sockets
# without a constant rate, which an emulated one does not promise.
complaints() {
    grep -iE '\[Firmware Bug\]|unchecked MSR|topology|APIC id mismatch|Duplicate|siblings|WARNING|BUG:|Call Trace|lockup|rcu.*stall|Hardware Error|unstable|clocksource:.*(skew|marked)' /log \
        | grep -vE 'Max\. logical|CPU topo:|Allocating|Linux version|ommand line|stall warnings timeout|due to TSCs unsynchronized' | sed 's/.*\] /complaint /'
}

# A program on each processor, and work that the kernel hands to every other one.
for n in $cpus; do taskset -c $n cat /proc/sys/vm/stat_refresh & done
wait
grep -E '^ *(LOC|RES|CAL|TLB):' /proc/interrupts | sed 's/^ */interrupts /'
dmesg > /log
grep -E 'kvm-guest:|kvm-clock: ' /log | sed 's/.*\] /kvm /'
complaints
dmesg -r | grep '^<[0-3]>' | sed 's/^<[0-9]>\[[ 0-9.]*\] /error /'
echo "report done yes"
grep -q test=load /proc/cmdline || poweroff -f

for n in $cpus; do
    taskset -c $n sh -c 'i=0; while :; do i=$((i+1)); [ $((i % 500)) = 0 ] && cat /proc/sys/vm/stat_refresh; done' &
done
i=0
while ! read -r -t 1 word; do i=$((i+1)); echo "count $i"; done < /dev/ttyS0
dmesg > /log; complaints
grep -E '^ *(LOC|RES):' /proc/interrupts | sed 's/^ */after /'
echo "report steal $(awk '/^cpu / { print $9 }' /proc/stat)"
poweroff -f
