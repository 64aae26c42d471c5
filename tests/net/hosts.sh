# Hosts for the scripts of this folder, which source it from the repository's root: network namespaces of this machine,
# joined by veth pairs and a bridge. And how cases are reported. `hosts` says how many; `bin`, where the C tests are.

name=shmem-net-$$ # of the namespaces: $name-0 .. and $name-switch
net=10.213.77     # host I has .(I+1) on eth0; the first two also .(I+129) on eth1
scratch=$(mktemp -d)
failed=0

skip() {
    echo "tests/net: skipped: $1"
    exit 0
}

cleanup() {
    local ns
    for ns in $(ip netns list 2>/dev/null | awk -v n="$name-" 'index($1, n) == 1 { print $1 }'); do
        ip netns pids "$ns" 2>/dev/null | xargs -r kill -9
        ip netns del "$ns"
    done
    rm -rf "$scratch"
}

make_hosts() {
    local i
    ip netns add "$name-switch" && ip -n "$name-switch" link add bridge type bridge &&
        ip -n "$name-switch" link set bridge up || return 1
    for ((i = 0; i < hosts; i++)); do
        ip netns add "$name-$i" &&
            ip link add eth0 netns "$name-$i" type veth peer name "port$i" netns "$name-switch" &&
            ip -n "$name-switch" link set "port$i" master bridge up &&
            ip -n "$name-$i" addr add "$net.$((i + 1))/25" dev eth0 &&
            ip -n "$name-$i" link set lo up && ip -n "$name-$i" link set eth0 up || return 1
    done
    # a second network between the first two
    ip link add eth1 netns "$name-0" type veth peer name eth1 netns "$name-1" || return 1
    for i in 0 1; do
        ip -n "$name-$i" addr add "$net.$((i + 129))/25" dev eth1 && ip -n "$name-$i" link set eth1 up || return 1
    done
}

# The hosts, until the script ends; or says why there are none.
prepare() {
    [ -x "$bin/launch" ] || skip "no C tests in $bin (make test-c)"
    command -v ip >/dev/null || skip "no ip command (apt install iproute2)"
    [ "$(id -u)" = 0 ] || skip "network namespaces need root"
    trap cleanup EXIT
    trap 'exit 130' INT TERM HUP
    make_hosts 2>"$scratch/out" || skip "no network namespaces here: $(tail -n 1 "$scratch/out")"
}

conclude() {
    cleanup
    trap - EXIT
    [ $failed = 0 ] || echo "tests/net: $failed cases failed"
    [ $failed = 0 ]
}

# ---- verdicts -------------------------------------------------------------------------------------------------------

wanted() {
    # shellcheck disable=SC2254 # it is a pattern
    case $1 in $pattern) started=$SECONDS ;; *) return 1 ;; esac
}

report() { # CASE OK
    local seconds=$((SECONDS - started))
    if [ "$2" = 0 ]; then
        printf 'ok      %-44s %3d s\n' "$1" $seconds
    else
        printf 'FAILED  %-44s %3d s\n' "$1" $seconds
        sed 's/^/        /' "$scratch/out" | tail -n 30
        failed=$((failed + 1))
    fi
}

# says TEXT...: each extended regular expression is in the output
says() {
    local text
    for text in "$@"; do
        grep -Eq -- "$text" "$scratch/out" || {
            echo "missing: $text" >>"$scratch/out"
            return 1
        }
    done
}
