#!/usr/bin/env bash
# What the project does on a machine with a CUDA GPU, in at most nine minutes and without a network:
#
#   bash benchmarks/gpu.sh
#
# Four stages, each with a time of its own: sanity, speed, a shard of PROFILE=full, training (benchmarks/gpu.py says
# what each does). Every stage writes into ${OUT:-_build}/gpu.json as soon as it has something, so that a run that is
# stopped leaves what it had; at the end one table is printed. What was poisoned stays in the store: a second run goes
# on from there.
#
#   OUT=FOLDER              where gpu.json goes
#   FACEPOISON_STORE=FOLDER where results are kept
#   COMMIT=NAME             what this is a copy of, where there is no git beside it
#   PYTHON=FILE             default: that of .venv, or else python3
#   STAGES="sanity full"    only some of them
#   LIMIT=SECONDS           for everything, default 540
#   SMALL=1                 tries the logic on the CPU with the smallest settings
#
# Where Python lacks packages, put their wheels into the folder .whl: they are installed for this run alone, without
# what they in turn ask for. If torchattacks is among them, the attacks are compared with it. LowKey is held back by
# LPIPS: where its weights are not, put the file that `facepoison fetch lpips` makes into the folder .cache.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2

OUT=${OUT:-_build}
LIMIT=${LIMIT:-540}
PYTHON=${PYTHON:-$(test -x .venv/bin/python && echo .venv/bin/python || echo python3)}
export PYTHONPATH="$PWD/lib${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
small=()
if [ -n "${SMALL:-}" ]; then
    small=(--small)
    export CUDA_VISIBLE_DEVICES= FACEPOISON_STORE="${FACEPOISON_STORE:-$PWD/_build/store-small}"
fi

if [ -d .cache ]; then
    export FACEPOISON_CACHE="$PWD/.cache"
fi

mkdir -p "$OUT" && rm -f "$OUT/gpu.json" || exit 2
if compgen -G '.whl/*.whl' > /dev/null; then
    site=$(mktemp -d) && trap 'rm -rf "$site"' EXIT
    "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile --no-cache-dir \
        --target "$site" .whl/*.whl || exit 2
    export PYTHONPATH="$PYTHONPATH:$site"
fi

"$PYTHON" - << 'END' || exit 2
import importlib.metadata, sys
names = "torch torchvision numpy scipy pillow timm safetensors scikit-learn onnx onnxruntime onnx2torch facenet-pytorch"
missing = []
for name in names.split():
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        missing.append(name)
if missing:
    sys.exit(f"missing here: {', '.join(missing)}; put their wheels into .whl, in the versions of requirements.txt")
END

failed=0
stage() { # name, seconds: after these nothing new begins, and half a minute later it is stopped
    case " ${STAGES:-sanity speed full training} " in *" $1 "*) ;; *) return ;; esac
    local left=$((LIMIT - SECONDS - 10))
    local budget=$(($2 < left - 15 ? $2 : left - 15))
    if [ "$budget" -lt 10 ]; then
        echo "$1: no time left" >&2
        failed=1
        return
    fi
    local stop=$((budget + 30 < left ? budget + 30 : left))
    timeout --kill-after=5 "$stop" \
        "$PYTHON" benchmarks/gpu.py "$1" --out "$OUT/gpu.json" --budget "$budget" "${small[@]}" ||
        { echo "$1: did not end well ($?)" >&2; failed=1; }
}
stage sanity 60
stage speed 120
stage full 240
stage training 40

"$PYTHON" benchmarks/gpu.py table --out "$OUT/gpu.json"
echo "$SECONDS s in all; written to $OUT/gpu.json"
exit "$failed"
