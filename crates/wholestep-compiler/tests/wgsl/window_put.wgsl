@group(0) @binding(0) var<storage, read_write> a0: array<f32>;
@group(0) @binding(1) var<storage, read_write> a1: array<i32>;
@group(0) @binding(2) var<storage, read_write> a2: array<f32>;
@group(0) @binding(62) var<uniform> params: array<vec4<u32>, 1>;
@compute @workgroup_size(128, 1, 1)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
let at = (group.y * groups.x + group.x) * 128u + local;
if (at >= params[0u].x * 210u) { return; }
let channel = at % 5u;
let u_1 = (at / 5u) % 6u;
let u_0 = ((at / 5u) / 6u) % 7u;
let image = (((at / 5u) / 6u) / 7u);
var sum: f32 = 0.0;
for (var left_0 = 3u; left_0 > 0u; left_0--) {
let j_0 = left_0 - 1u;
let q_0 = u_0 + 1u - j_0 * 1u;
let p_0 = q_0 / 2u;
if (q_0 % 2u != 0u || p_0 >= 4u) { continue; }
for (var left_1 = 2u; left_1 > 0u; left_1--) {
let j_1 = left_1 - 1u;
let q_1 = u_1 + 0u - j_1 * 2u;
let p_1 = q_1 / 1u;
if (q_1 % 1u != 0u || p_1 >= 4u) { continue; }
let from_at = ((image * 4u + p_0) * 4u + p_1) * 5u + channel;
if (u32(a1[from_at]) == (j_0 * 2u + j_1)) { sum += a0[from_at]; }
}
}
a2[at] = sum;
}
