#!/usr/bin/env bash
# What a GPU machine without Rust needs, in one folder: the tests that run on a device, the benchmarks and the command, as stripped programs
# with what they read, beside the Vulkan loader. Build here, carry the folder there, run FOLDER/run.sh.
#
#   bench/device.sh [FOLDER]                    target/device unless said otherwise
#   FOLDER/run.sh [wgpu] [cuda] [check] [bench] both devices and both parts unless said otherwise; exit status 1 if anything failed
#
# A device's library that is missing (Vulkan's driver; NVIDIA's driver and NVRTC, also as packages of the active Python) is a failure and not a skip.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-target/device}
rm -rf "$out"
mkdir -p "$out/bin" "$out/lib" "$out/crates/wholestep/tests"

cargo build --release --locked --package wholestep-cli
cp target/release/wholestep "$out/bin/"
# The tests' and benchmarks' programs, named crate-target: cargo says which file is which.
programs() {
  cargo "$@" --locked --no-run --message-format json |
    sed -n 's/.*"package_id":"[^"#]*\/\([^"\/#]*\)#[^"]*".*"kind":\["\([a-z]*\)"\].*"name":"\([^"]*\)".*"executable":"\([^"]*\)".*/\1-\3 \4/p'
}
{
  programs test -p wholestep-wgpu --test conformance --test loops --test half --test contractions --test tuning
  programs test -p wholestep-cuda --lib --test conformance
  programs test -p wholestep --test truth --test wgpu --test cuda --test resume --test precision --test recompute \
    --test lbfgs --test least_squares --test transfers --test tuning
  programs bench -p wholestep-wgpu --bench contractions --bench loops --bench latency
  programs bench -p wholestep-cuda --bench kernels
  programs bench -p wholestep --bench copies --bench lbfgs
} | while read -r name program; do
  # A benchmark and a test of one crate may have one name.
  case "$program" in */release/*) name=$name-bench ;; esac
  strip -o "$out/bin/$name" "$program"
done
cp -r crates/wholestep/tests/golden "$out/crates/wholestep/tests/"
cp -r data examples "$out/"
loader=$(ldconfig -p | sed -n 's/.*libvulkan\.so\.1 .*=> //p' | head -1)
[ -n "$loader" ] && cp -L "$loader" "$out/lib/libvulkan.so.1"

cat >"$out/run.sh" <<'RUN'
#!/usr/bin/env bash
set -uo pipefail
cd "$(dirname "$0")"
here=$PWD
export LD_LIBRARY_PATH="$here/lib:${LD_LIBRARY_PATH:-}" XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/tmp}" CARGO_MANIFEST_DIR="$here/crates/wholestep" RUST_BACKTRACE=0
# Containers do not always name NVIDIA's driver where the loader looks.
for icd in /usr/local/nvidia/share/vulkan/icd.d/nvidia_icd.json; do
  [ -f "$icd" ] && [ ! -f /usr/share/vulkan/icd.d/nvidia_icd.json ] && [ ! -f /etc/vulkan/icd.d/nvidia_icd.json ] && export VK_DRIVER_FILES="$icd"
done
devices='' parts=''
for word in "$@"; do
  case "$word" in
    wgpu | cuda) devices+=" $word" ;;
    check | bench) parts+=" $word" ;;
    *) echo "run.sh [wgpu] [cuda] [check] [bench]"; exit 2 ;;
  esac
done
failed=''
run() {
  local begun=$SECONDS
  echo "== $*"
  "$@" || { failed+=$'\n'"  $*"; echo "== FAILED: $*"; }
  echo "== $((SECONDS - begun)) s"
}
check() {
  export WHOLESTEP_DEVICE=$1 "REQUIRE_${1^^}=1"
  run bin/wholestep-"$1"-conformance --nocapture
  case "$1" in
    wgpu) for test in loops half contractions tuning; do run bin/wholestep-wgpu-$test; done ;;
    cuda) run bin/wholestep-cuda-wholestep_cuda ;;
  esac
  for test in truth "$1" resume precision lbfgs least_squares transfers tuning; do run bin/wholestep-$test; done
  # Its other tests are of the host's plans.
  run bin/wholestep-recompute a_gpu_computes_again
  # The main job, from an empty cache: 99 % of the test images.
  WHOLESTEP_CACHE=$(mktemp -d) run bin/wholestep train examples/mnist.toml
}
bench() {
  local step="bin/wholestep bench --device $1"
  export WHOLESTEP_DEVICE=$1
  case "$1" in
    wgpu)
      for what in "matmul 4096" "f16 8192" "conv 64"; do run bin/wholestep-wgpu-contractions-bench $what; done
      run bin/wholestep-wgpu-loops-bench
      run bin/wholestep-wgpu-latency-bench
      ;;
    cuda) run bin/wholestep-cuda-kernels-bench ;;
  esac
  run bin/wholestep-copies-bench
  run bin/wholestep-lbfgs-bench "$1"
  for workload in tiny_b8 mlp_b64 mlp_b512 cnn_b64 lstm_b32 resnet18_b32; do
    for mode in step many stream; do run $step --workload $workload --mode $mode; done
  done
  if [ "$1" = cuda ]; then
    run $step --workload tiny_b8 --mode many --chunk 100
    for precision in f32 tf32; do run $step --workload mlp_b64 --precision $precision --mode stream; done
    for workload in gpt_b16 resnet18_b512 resnet50_b128 gpt2_b32; do
      for _ in cold warm; do run $step --workload $workload --precision bf16 --mode stream --steps 64; done
    done
  fi
}
for device in ${devices:-wgpu cuda}; do
  for part in ${parts:-check bench}; do $part $device; done
done
[ -z "$failed" ] || { echo "== failed:$failed"; exit 1; }
RUN
chmod +x "$out/run.sh"
du -sh "$out"
