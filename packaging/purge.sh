#!/bin/sh
# Stops all of nvdra and deletes whatever it has written on this host: records and CDI files of prepared claims, sockets,
# the node's credential, settings. Pods that use a GPU go on running; what uses one and is started again then fails.
# dpkg runs it on purge. With rpm, run it before the package is removed; the Ansible playbook `uninstall` does.
set -e

state=/var/lib/nvdra
kubelet=/var/lib/kubelet

nvdra_units() {
    systemctl list-units --all --plain --no-legend 'nvdra*' | cut -d ' ' -f 1
}

stop_all() {
    [ -d /run/systemd/system ] || return 0
    # Also instances, and those whose unit file is gone already. What starts others is stopped before them.
    for unit in $(nvdra_units | grep -v '\.service$') $(nvdra_units | grep '\.service$'); do
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

# nvidia-imex keeps the peers of the ComputeDomain that it last served in persist.dat, and connects to them again.
remove_peers() {
    [ -d /run/nvdra/imex ] || return 0
    if ! systemctl is-active --quiet nvidia-imex.service; then
        rm -f /run/nvidia-imex/persist.dat
        [ ! -d /run/nvidia-imex ] || rmdir --ignore-fail-on-non-empty /run/nvidia-imex
    fi
}

# The record says how NVIDIA's own unit was before a rollout masked it: name, UnitFileState, ActiveState.
restore_vendor_unit() {
    [ -r "$state/vendor-imex" ] || return 0
    unit=$(cut -d ' ' -f 1 "$state/vendor-imex")
    enabled=$(cut -d ' ' -f 2 "$state/vendor-imex")
    active=$(cut -d ' ' -f 3 "$state/vendor-imex")
    systemctl unmask "$unit" || echo "nvdra: $unit is still masked; run: systemctl unmask $unit" >&2
    if [ "$enabled" = enabled ]; then
        systemctl enable "$unit" || echo "nvdra: $unit is not enabled; run: systemctl enable $unit" >&2
    fi
    if [ "$active" = active ] && [ -d /run/systemd/system ]; then
        systemctl start "$unit" || echo "nvdra: $unit did not start; see: journalctl -u $unit" >&2
    fi
}

stop_all
for driver in gpu.nvidia.com compute-domain.nvidia.com; do
    remove_cdi_files $driver
    remove_sockets $driver
done
remove_peers
restore_vendor_unit
rm -rf $state /run/nvdra /run/nvdra-stopped /var/cache/nvdra /var/log/nvdra /etc/nvdra
