#!/bin/sh
# Write Swift's rings: all of the accounts, containers and objects are on one volume of this host.
set -e
making=$(mktemp -d)
trap 'rm -r "$making"' EXIT
cd "$making"
for ring in account:6202 container:6201 object:6200; do
    name=${ring%:*}
    # 2^8 parts, one copy of each, no hour between two changes
    swift-ring-builder "$name.builder" create 8 1 0
    swift-ring-builder "$name.builder" add "r1z1-127.0.0.1:${ring#*:}/$1" 1
    swift-ring-builder "$name.builder" rebalance 1
done
chmod 644 -- *.builder *.ring.gz
rm -f /etc/swift/*.rings
mv -- *.builder *.ring.gz /etc/swift/
touch "/etc/swift/$1.rings"
