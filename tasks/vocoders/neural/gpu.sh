#!/usr/bin/env bash
# Train the neural vocoders on a GPU, in legs that a second call continues, and print their scores on held-out speakers.
#
#   tasks/vocoders/neural/gpu.sh --minutes 60 --speech DIR [--speech DIR ...] [--out trained/vocoders] [--config base]
#                                [--vocoders "hn_nsf vocos hifigan waveglow diffwave"] [--device cuda] [--batch-size 32] [--steps 100000]
#
# A leg is one vocoder; each gets an equal share of the minutes and goes on from its checkpoint when called again. Writes
# <out>/<vocoder>/ (weights, card, checkpoint, history) and <out>/scores.txt.
set -euo pipefail
minutes=60 out=trained/vocoders config=base device=cuda batch=32 steps=100000 after=5000 speech=()
vocoders="hn_nsf vocos hifigan waveglow diffwave"
while [ $# -gt 0 ]; do
  case "$1" in
    --minutes) minutes=$2 ;; --speech) speech+=(--speech "$2") ;; --out) out=$2 ;; --config) config=$2 ;; --vocoders) vocoders=$2 ;;
    --device) device=$2 ;; --batch-size) batch=$2 ;; --steps) steps=$2 ;; --adversarial-after) after=$2 ;;
    *) echo "unknown option $1; see the head of $0" >&2; exit 2 ;;
  esac
  shift 2
done
[ ${#speech[@]} -gt 0 ] || { echo "--speech must name a folder of recordings; see the head of $0" >&2; exit 2; }
python=${PYTHON:-python3} cli=${XAIBENCH:-xaibench}
share=$("$python" -c "print($minutes / $(wc -w <<<"$vocoders"))")
mkdir -p "$out"
cards=()
for vocoder in $vocoders; do
  "$cli" train vocoder "$vocoder" "${speech[@]}" --config "$config" --device "$device" --batch-size "$batch" --steps "$steps" \
    --adversarial-after "$after" --minutes "$share" --out "$out/$vocoder" >/dev/null
  cards+=("$out/$vocoder/$vocoder.json")
done
"$python" - "${cards[@]}" <<'PYTHON' | tee "$out/scores.txt"
import json
import sys

print(f"{'vocoder':12}{'steps':>8}{'minutes':>9}{'log-mel dB':>12}{'STOI':>7}{'PESQ':>7}{'MB':>7}")
for path in sys.argv[1:]:
    with open(path) as file:
        card = json.load(file)
    scores = [("-" if card["scores"][name] is None else f"{card['scores'][name]:.2f}") for name in ("log_mel_db", "stoi", "pesq_wb")]
    print(f"{card['vocoder']:12}{card['steps']:>8}{card['seconds'] / 60:>9.1f}{scores[0]:>12}{scores[1]:>7}{scores[2]:>7}"
          f"{card['file_bytes'] / 1e6:>7.1f}")
PYTHON
