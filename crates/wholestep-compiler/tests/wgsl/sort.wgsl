@group(0) @binding(0) var<storage, read_write> a0: array<f32>;
@group(0) @binding(1) var<storage, read_write> a1: array<i32>;
@group(0) @binding(62) var<uniform> params: array<vec4<u32>, 1>;
var<workgroup> keys: array<u32, 16>;
var<workgroup> places: array<u32, 16>;
fn order_key(x: f32) -> u32 {
  let bits = bitcast<u32>(x);
  let size = bits & 0x7fffffffu;
  if (size > 0x7f800000u) { return 0xffffffffu; }
  if (size == 0u) { return 0x80000000u; }
  return select(bits | 0x80000000u, ~bits, (bits >> 31u) == 1u);
}
@compute @workgroup_size(8, 1, 1)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
let line = group.y * groups.x + group.x;
if (line >= params[0u].x * 1u) { return; }
let len = 9u;
let inner = 1u;
let first = line / inner * len * inner + line % inner;
let begin = 0u;
for (var e = local; e < 16u; e += 8u) {
let i = begin + e;
if (i < len) { keys[e] = order_key(a0[first + i * inner]); places[e] = i; } else { keys[e] = 0xffffffffu; places[e] = 0xffffffffu; }
}
workgroupBarrier();
for (var block = 2u; block <= 16u; block = block << 1u) {
for (var step = block >> 1u; step > 0u; step = step >> 1u) {
for (var pair = local; pair < 8u; pair += 8u) {
let low = pair / step * step * 2u + pair % step;
let high = low + step;
let up = (low & block) == 0u;
let k0 = keys[low]; let k1 = keys[high]; let p0 = places[low]; let p1 = places[high];
let after = k0 > k1 || (k0 == k1 && p0 > p1);
if (after == up) { keys[low] = k1; keys[high] = k0; places[low] = p1; places[high] = p0; }
}
workgroupBarrier();
}
}
for (var e = local; e < len; e += 8u) {
a1[first + e * inner] = i32(places[e]);
}
}
