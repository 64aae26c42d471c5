#!/usr/bin/env bash
# replay.sh SIM_FUZZ NIC_REPLAY: random rounds, broken requests among them, leave traces; posted again they end with the same
# entries. And a trace in which one entry was changed does not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$1" --seed "${SEED:-1}" --rounds "${ROUNDS:-12}" --traces "$folder"
for near in "$folder"/*.near.*; do
    far=("${near/.near./.far.}")
    [[ -e ${far[0]} ]] || far=() # a round with one NIC
    "$2" "$near" "${far[@]}" 2>"$folder/said" || { cat "$folder/said"; echo "replay of $near differs"; exit 1; }
done
python3 - "$near" <<'END'
import struct, sys
raw = bytearray(open(sys.argv[1], "rb").read())
at, = struct.unpack_from("=I", raw, 12)
while True:
    _, kind, size, _ = struct.unpack_from("=QHHI", raw, at)
    if kind == 8 and raw[at + 16 + 8 + 63] >> 4 == 0: # a good entry of a request
        raw[at + 16 + 8 + 56] ^= 1                    # of another opcode
        break
    at += (16 + size + 7) // 8 * 8
open(sys.argv[1], "wb").write(raw)
END
if "$2" "$near" "${far[@]}" >"$folder/said" 2>&1; then
    echo "a changed entry is not noticed"
    exit 1
fi
grep -q "in the trace" "$folder/said"
