@group(0) @binding(0) var<storage, read_write> a0: array<f32>;
@group(0) @binding(1) var<storage, read_write> a1: array<f32>;
@group(0) @binding(2) var<storage, read_write> a2: array<f32>;
@group(0) @binding(4) var<storage, read_write> a4: array<f32>;
@group(0) @binding(5) var<storage, read_write> a5: array<f32>;
@group(0) @binding(62) var<uniform> params: array<vec4<u32>, 1>;
@compute @workgroup_size(64, 1, 1)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
let at = (group.y * groups.x + group.x) * 64u + local;
if (at >= params[0u].x * 8u) { return; }
let orow = at / 8u; let ocol = at % 8u;
let which = ocol / 1u;
let u_1 = orow % 9u;
let u_0 = (orow / 9u) % 9u;
let image = ((orow / 9u) / 9u);
var sum = 0.0;
for (var j_0 = 0u; j_0 < 3u; j_0++) {
let p_0 = u_0 * 1u + j_0 * 1u + 4294967295u;
if (p_0 >= 9u) { continue; }
for (var j_1 = 0u; j_1 < 3u; j_1++) {
let p_1 = u_1 * 1u + j_1 * 1u + 4294967295u;
if (p_1 >= 9u) { continue; }
let x = ((image * 9u + p_0) * 9u + p_1) * 8u + which * 1u;
for (var c = 0u; c < 1u; c++) { sum = fma(a0[x + c], a1[(((0u * 3u + j_0) * 3u + j_1) * 1u + c) * 8u + ocol], sum); }
}
}
let i2 = orow % 9u;
let i2r = orow / 9u;
let i1 = i2r % 9u;
let i1r = i2r / 9u;
let finished = sum;
let v0: f32 = finished;
let v1: f32 = a4[ocol];
let v2: f32 = (v0 + v1);
a5[at] = v0;
a2[at] = v2;
}
