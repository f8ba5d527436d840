@group(0) @binding(2) var<storage, read_write> a2: array<f32>;
@group(0) @binding(4) var<storage, read_write> a4: array<f32>;
@group(0) @binding(5) var<storage, read_write> a5: array<f32>;
@group(0) @binding(63) var<storage, read_write> scratch: array<f32>;
@compute @workgroup_size(64, 1, 1)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
let at = (group.y * groups.x + group.x) * 64u + local;
let total = 64u * 64u;
if (at >= total) { return; }
let depth = 4096u;
let part_of_depth = 0u;
let of_part = max(128u, (depth + 63u) / 64u * 16u);
let k_from = min(part_of_depth * of_part, depth); let k_to = min(k_from + of_part, depth);
let parts = (depth + of_part - 1u) / of_part;
var sum = 0.0;
var part = 0u;
for (; part + 8u <= parts; part += 8u) {
let s0 = scratch[(part + 0u) * total + at];
let s1 = scratch[(part + 1u) * total + at];
let s2 = scratch[(part + 2u) * total + at];
let s3 = scratch[(part + 3u) * total + at];
let s4 = scratch[(part + 4u) * total + at];
let s5 = scratch[(part + 5u) * total + at];
let s6 = scratch[(part + 6u) * total + at];
let s7 = scratch[(part + 7u) * total + at];
sum += s0;
sum += s1;
sum += s2;
sum += s3;
sum += s4;
sum += s5;
sum += s6;
sum += s7;
}
for (; part < parts; part++) { sum += scratch[part * total + at]; }
let orow = at / 64u;
let ocol = at % 64u;
let finished = sum;
let v0: f32 = finished;
let v1: f32 = a4[ocol];
let v2: f32 = (v0 + v1);
a5[at] = v0;
a2[at] = v2;
}
