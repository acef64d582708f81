#!/bin/sh
# What a deploy does, by a person who knows every step and checks nothing: the other side of the deploy benchmark.
# Runs in a bare lab host. /root/by-hand holds: packages (one a line), node.pyz, files.tar (the same configuration).
set -eu
cd /root/by-hand
device=$1
export DEBIAN_FRONTEND=noninteractive
printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
apt-get -qq update
xargs apt-get -qq install -y --no-install-recommends -o Dpkg::Options::=--force-confold < packages
rm /usr/sbin/policy-rc.d
python3 node.pyz install
mkfs.btrfs -q --label casemate-pool "$device"
tar -xf files.tar -C /
unit=/etc/systemd/system/var-lib-casemate-pool.mount
sed -i "s|^What=.*|What=UUID=$(blkid -p -s UUID -o value "$device")|" $unit
systemctl daemon-reload
systemctl enable --quiet --now var-lib-casemate-pool.mount
for subvolume in $(cat subvolumes); do
  btrfs -q subvolume create "/var/lib/casemate/pool/$subvolume"
done
systemctl enable --quiet containerd.service
systemctl restart containerd.service
/usr/lib/casemate/bin/casemate-images > /dev/null
/usr/lib/casemate/bin/casemate-microvm prepare > /dev/null
/usr/lib/casemate/bin/casemate-images --demo > /dev/null
systemctl enable --quiet --now casemate-pods.path
/usr/lib/casemate/bin/casemate-pod sync --wait=180 --for=demo > /dev/null
systemctl enable --quiet prometheus.service prometheus-node-exporter.service
systemctl restart prometheus.service prometheus-node-exporter.service
