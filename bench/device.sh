#!/usr/bin/env bash
# What a GPU machine without Rust needs, in one folder: the conformance table, training truth, what a device promises, and the command with its
# benchmarks, as stripped programs beside the Vulkan loader. Build here, carry the folder there, run FOLDER/run.sh.
#
#   bench/device.sh [FOLDER]        target/device unless said otherwise
#   FOLDER/run.sh [check] [bench]   both unless said otherwise; exit status 1 if anything failed
#
# run.sh uses the machine's first wgpu device, or that which WHOLESTEP_DEVICE names.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-target/device}
rm -rf "$out"
mkdir -p "$out/lib" "$out/manifest/tests"

cargo build --release --locked --package wholestep-cli
cp target/release/wholestep "$out/"
# The tests' programs, by the names that cargo gives them.
programs=$(cargo test --locked --workspace --test conformance --test truth --test wgpu --no-run --message-format json |
  sed -n 's/.*"name":"\(conformance\|truth\|wgpu\)".*"executable":"\([^"]*\)".*/\1 \2/p')
while read -r name program; do
  case "$program" in
    */wholestep_cpu*) continue ;;
  esac
  # Two crates have a table; the wgpu one is the one that knows adapters.
  if [ "$name" = conformance ] && ! grep -q mesa-vulkan-drivers "$program"; then continue; fi
  cp "$program" "$out/$name"
  strip "$out/$name"
done <<<"$programs"
cp -r crates/wholestep/tests/golden "$out/manifest/tests/"
loader=$(ldconfig -p | sed -n 's/.*libvulkan\.so\.1 .*=> //p' | head -1)
[ -n "$loader" ] && cp -L "$loader" "$out/lib/libvulkan.so.1"

cat >"$out/run.sh" <<'RUN'
#!/usr/bin/env bash
set -uo pipefail
cd "$(dirname "$0")"
here=$PWD
export LD_LIBRARY_PATH="$here/lib:${LD_LIBRARY_PATH:-}" XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/tmp}" REQUIRE_WGPU=1 RUST_BACKTRACE=0
export WHOLESTEP_DEVICE="${WHOLESTEP_DEVICE:-wgpu}"
# Containers do not always name NVIDIA's driver where the loader looks.
for icd in /usr/local/nvidia/share/vulkan/icd.d/nvidia_icd.json; do
  [ -f "$icd" ] && [ ! -f /usr/share/vulkan/icd.d/nvidia_icd.json ] && [ ! -f /etc/vulkan/icd.d/nvidia_icd.json ] && export VK_DRIVER_FILES="$icd"
done
device=$WHOLESTEP_DEVICE
parts=${*:-check bench}
failed=0
run() {
  echo "== $*"
  local begun=$SECONDS
  "$@" || { failed=1; echo "== FAILED: $*"; }
  echo "== $((SECONDS - begun)) s"
}
for part in $parts; do
  case "$part" in
    check)
      run ./conformance --nocapture
      CARGO_MANIFEST_DIR="$here/manifest" run ./truth
      run ./wgpu
      ;;
    bench)
      for workload in tiny_b8 mlp_b64 mlp_b512 cnn_b64 resnet18_b32; do
        for mode in step many stream; do
          run ./wholestep bench --device "$device" --workload "$workload" --mode "$mode"
        done
        WHOLESTEP_LOG=2 run ./wholestep bench --device "$device" --workload "$workload" --mode step --steps 20 --warmup 5
      done
      ;;
    *) echo "run.sh [check] [bench]"; exit 2 ;;
  esac
done
exit $failed
RUN
chmod +x "$out/run.sh"
du -sh "$out"
