#!/bin/sh
# Stops all of nvdra and deletes whatever it has written on this host: records and CDI files of prepared claims, sockets,
# the node's credential, settings. Pods that use a GPU go on running; what uses one and is started again then fails.
# dpkg runs it on purge; with rpm it is called by hand before the package is erased.
set -e

state=/var/lib/nvdra
kubelet=/var/lib/kubelet

stop_all() {
    [ -d /run/systemd/system ] || return 0
    # Also instances, and those whose unit file is gone already.
    for unit in $(systemctl list-units --all --plain --no-legend 'nvdra*' | cut -d ' ' -f 1); do
        systemctl stop "$unit" || echo "nvdra: $unit did not stop" >&2
        # Systemd would remember a unit that failed, and that has no file any more, until the next boot.
        if systemctl is-failed --quiet "$unit"; then
            systemctl reset-failed "$unit"
        fi
    done
    find /etc/systemd/system -type l -name 'nvdra*' -delete
    find /etc/systemd/system -type d -name 'nvdra*.wants' -empty -delete
    rm -rf /run/systemd/system.control/nvdra-*.service.d
    systemctl daemon-reload
}

# A file under our name that no record of ours names belongs to another program, such as upstream's driver.
remove_cdi_files() {
    for record in "$state/$1/claims"/*.json; do
        uid=$(basename "$record" .json)
        rm -f "/run/cdi/k8s.$1-claim_$uid.yaml"
    done
}

remove_sockets() {
    directory=$kubelet/plugins/$1
    [ -e "$directory/nvdra.lock" ] || return 0
    for socket in "$directory/dra.sock" "$kubelet/plugins_registry/$1-reg.sock"; do
        # Somebody who listens there has taken over.
        if [ -S "$socket" ] && ! grep -q -F " $socket" /proc/net/unix; then
            rm -f "$socket"
        fi
    done
    rm -f "$directory/nvdra.lock"
    rmdir --ignore-fail-on-non-empty "$directory"
}

stop_all
for driver in gpu.nvidia.com compute-domain.nvidia.com; do
    remove_cdi_files $driver
    remove_sockets $driver
done
rm -rf $state /run/nvdra /var/cache/nvdra /var/log/nvdra /etc/nvdra
