#!/usr/bin/env bash
# Train, evaluate and measure the SegDiff configurations on a GPU, in legs that a second call continues.
#
#   explainers/segdiff/gpu.sh --minutes 60 [--task public_pairs] [--out trained/gpu] [--configs "base paper"] [--also folder:data=DIR]
#                             [--device cuda] [--precision bf16] [--batch-size 16] [--steps 20000] [--limit N]
#
# A leg is one method of one configuration; each gets an equal share of the minutes and goes on from its checkpoint when called again.
# Writes <out>/<config>/<method>/ (weights, card, checkpoint, history), <out>/measured.jsonl and <out>/scores-<config>.txt.
set -euo pipefail
minutes=60 task=public_pairs out=trained/gpu configs="base paper" device=cuda precision=bf16 batch=16 steps=20000 limit="" also=()
while [ $# -gt 0 ]; do
  case "$1" in
    --minutes) minutes=$2 ;; --task) task=$2 ;; --out) out=$2 ;; --configs) configs=$2 ;; --device) device=$2 ;;
    --precision) precision=$2 ;; --batch-size) batch=$2 ;; --steps) steps=$2 ;; --limit) limit=$2 ;; --also) also+=(--also "$2") ;;
    *) echo "unknown option $1; see the head of $0" >&2; exit 2 ;;
  esac
  shift 2
done
python=${PYTHON:-python3} cli=${XAIBENCH:-xaibench}
methods="one_shot specsegdiff"
legs=$(($(wc -w <<<"$configs") * $(wc -w <<<"$methods")))
share=$("$python" -c "print($minutes / $legs)")
mkdir -p "$out"
for config in $configs; do
  "$python" -m xaibench.explainers.segdiff.measure --config "$config" --device "$device" --precision "$precision" \
    --batch-size "$batch" --out "$out/measured.jsonl"
  explainers=()
  for method in $methods; do
    "$cli" train "$method" --task "$task" --config "$config" --device "$device" --precision "$precision" \
      --batch-size "$batch" --steps "$steps" --minutes "$share" --out "$out/$config/$method" ${also[@]+"${also[@]}"}
    explainers+=(--explainer "$method:weights=$out/$config/$method/$method-${task%%:*}.safetensors")
  done
  "$cli" run "${explainers[@]}" --task "$task" --out "$out/run-$config" ${limit:+--limit "$limit"} | tee "$out/scores-$config.txt"
done
