#!/usr/bin/env bash
# Runs a command in N network namespaces that are joined by a switch, each behind a link of a given rate and delay.
#
#   netsim.sh N RATE DELAY -- COMMAND...        e.g. netsim.sh 2 100mbit 10ms -- python worker.py
#
# RATE is what each namespace may send (tbf), 0 for as much as it can, and the variable NETSIM_DOWN what it may receive; DELAY is one way (a round trip takes twice as
# long), 0 for none. COMMAND runs once in each namespace, with RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT and
# GLOO_SOCKET_IFNAME, so a torch program finds its group. The exit status is that of the last COMMAND that failed, else 0.
# Needs root and tc. Where the kernel has no netem, a program in user space delays (delay.py). All is removed at the end.
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
PYTHON=${NETSIM_PYTHON:-python3}
N=$1 RATE=$2 DELAY=$3
shift 3
[ "$1" = "--" ] && shift
ID=prime$$
SWITCH=${ID}s
PIDS=()
DELAYER=

cleanup() {
  [ -z "$DELAYER" ] || kill -9 "$DELAYER" 2>/dev/null || true
  for pid in "${PIDS[@]:-}"; do [ -z "$pid" ] || kill -9 "$pid" 2>/dev/null || true; done
  for ((i = 0; i < N; i++)); do ip netns del "${ID}n$i" 2>/dev/null || true; done
  ip netns del "$SWITCH" 2>/dev/null || true
}
trap cleanup EXIT INT TERM

has_netem() { ip netns exec "$SWITCH" tc qdisc add dev lo root netem delay 1ms 2>/dev/null && ip netns exec "$SWITCH" tc qdisc del dev lo root; }

ip netns add "$SWITCH"
ip -n "$SWITCH" link set lo up
NETEM=yes
[ "$DELAY" = 0 ] || has_netem || NETEM=no
ip -n "$SWITCH" link add br0 type bridge
ip -n "$SWITCH" link set br0 up
for ((i = 0; i < N; i++)); do
  SPACE=${ID}n$i
  ip netns add "$SPACE"
  ip -n "$SPACE" link set lo up
  ip link add eth0 netns "$SPACE" type veth peer name "p$i" netns "$SWITCH"
  ip -n "$SPACE" addr add "10.99.0.$((i + 1))/24" dev eth0
  ip -n "$SPACE" link set eth0 up
  if [ $NETEM = yes ]; then
    ip -n "$SWITCH" link set "p$i" master br0
  else # delay.py passes on single frames as they are on a wire: none joined, none without its checksum
    ip -n "$SWITCH" link set "p$i" gso_max_size 1500 gso_max_segs 1
    ip -n "$SPACE" link set eth0 gso_max_size 1500 gso_max_segs 1
    ip netns exec "$SPACE" "$PYTHON" "$HERE/offload.py" eth0
    ip netns exec "$SWITCH" "$PYTHON" "$HERE/offload.py" "p$i"
  fi
  ip -n "$SWITCH" link set "p$i" up
  if [ -n "${NETSIM_DOWN:-}" ]; then
    ip netns exec "$SWITCH" tc qdisc add dev "p$i" root tbf rate "$NETSIM_DOWN" burst "${NETSIM_BURST:-256kb}" latency 200ms
  fi
  if [ "$RATE" != 0 ]; then
    ip netns exec "$SPACE" tc qdisc add dev eth0 root handle 1: tbf rate "$RATE" burst "${NETSIM_BURST:-256kb}" latency 200ms
  fi
  if [ "$DELAY" != 0 ] && [ $NETEM = yes ]; then
    [ "$RATE" = 0 ] && PLACE="root" || PLACE="parent 1:1"
    # shellcheck disable=SC2086 # two words
    ip netns exec "$SPACE" tc qdisc add dev eth0 $PLACE handle 10: netem delay "$DELAY" limit 100000
  fi
done
if [ $NETEM = no ]; then
  PORTS=()
  for ((i = 0; i < N; i++)); do PORTS+=("p$i"); done
  ip netns exec "$SWITCH" "$PYTHON" "$HERE/delay.py" "${DELAY%ms}" "${PORTS[@]}" &
  DELAYER=$!
fi
STATUS=0
for ((i = 0; i < N; i++)); do
  RANK=$i WORLD_SIZE=$N LOCAL_RANK=0 MASTER_ADDR=10.99.0.1 MASTER_PORT=${MASTER_PORT:-29500} GLOO_SOCKET_IFNAME=eth0 \
    ip netns exec "${ID}n$i" "$@" &
  PIDS+=($!)
done
for pid in "${PIDS[@]}"; do wait "$pid" || STATUS=$?; done
PIDS=()
exit $STATUS
