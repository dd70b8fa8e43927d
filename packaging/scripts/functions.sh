# Shared by all maintainer scripts; the builder puts it in front of each, with the names between at signs replaced.
set -e

library=/usr/lib/nvdra
pythons="@PYTHONS@"
not_compiled="@NOT_COMPILED@" # of these, the versions for which the package carries no compiled files
sockets="@SOCKETS@"           # systemd listens on them for services of the same names
services="@SERVICES@"         # restarted by an upgrade, stopped by a removal; workloads do not notice
others="@OTHERS@"             # started with the services, and stopped before them by a removal
stopped=/run/nvdra-stopped    # what a removal has stopped: started again when it is aborted

has_systemd() {
    [ -d /run/systemd/system ]
}

systemd_reload() {
    if has_systemd; then
        # What nvdra-driver.service fixed of a unit that may be another one now. It starts with its own list.
        rm -f /run/systemd/system.control/nvdra-*.service.d/50-DeviceAllow.conf
        systemctl daemon-reload
    fi
}

# An upgrade does not fail over a service that does not come up; the one that looks after the upgrade must be told.
restart_services() {
    has_systemd || return 0
    # A socket that lived through a release without its unit file listens no more, and systemd starts no socket again
    # beside its service. Whoever asks meanwhile asks again.
    for socket in $sockets; do
        if systemctl is-active --quiet "$socket"; then
            systemctl stop "$socket" "${socket%.socket}.service"
            systemctl start "$socket" || echo "nvdra: $socket did not start again" >&2
        fi
    done
    for service in $services; do
        systemctl try-restart "$service" ||
            echo "nvdra: $service did not start again; see: journalctl -u $service" >&2
    done
}

# What starts others goes first, so that nothing that was stopped is started again.
stop_services() {
    has_systemd || return 0
    for unit in $services $others; do
        case $(systemctl show -P ActiveState "$unit") in
            active | activating | reloading) echo "$unit" ;;
        esac
    done >$stopped
    for unit in $others $services; do
        systemctl stop "$unit" || echo "nvdra: $unit did not stop" >&2
    done
}

# The package stays, for its removal was aborted: it runs as before.
start_stopped() {
    [ -e $stopped ] || return 0
    while read -r unit; do
        systemctl start "$unit" </dev/null ||
            echo "nvdra: $unit did not start again; see: journalctl -u $unit" >&2
    done <$stopped
    rm -f $stopped
}

# Compiled files of a Python that the package was not compiled for. They are checked against their source at each use.
compile_here() {
    for version in $not_compiled; do
        if [ -x "/usr/bin/python$version" ]; then
            "/usr/bin/python$version" -IBm compileall -q --invalidation-mode checked-hash $library ||
                echo "nvdra: not compiled for Python $version; services start more slowly" >&2
        fi
    done
}

uncompile_here() {
    for version in $not_compiled; do
        find $library -name "*.cpython-$(echo "$version" | tr -d .).pyc" -delete
    done
}

create_files() {
    if has_systemd && [ -e /usr/lib/tmpfiles.d/nvdra.conf ]; then
        systemd-tmpfiles --create nvdra.conf
    fi
    if [ -e /usr/lib/udev/rules.d ] && [ -S /run/udev/control ]; then
        udevadm control --reload || echo "nvdra: udev did not read its rules again" >&2
    fi
}
