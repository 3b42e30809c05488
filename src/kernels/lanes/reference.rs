//! Convolution as its definition says, one multiplication at a time: the oracle of the fast one.

use super::geometry::Geometry;
use crate::kernels::Element;

/// Visits every (input offset, weight offset, output offset) that the definition multiplies.
fn for_each_product(geometry: &Geometry, mut visit: impl FnMut(usize, usize, usize)) {
    let g = geometry;
    let (out_h, out_w) = (g.out_height(), g.out_width());
    for b in 0..g.batch {
        for o in 0..g.c_out {
            for (i, kh, kw) in triples(g.c_in, g.kernel, g.kernel) {
                let weight = ((o * g.c_in + i) * g.kernel + kh) * g.kernel + kw;
                for oy in 0..out_h {
                    let Some(y) = (oy * g.stride + kh).checked_sub(g.padding).filter(|&y| y < g.height)
                    else {
                        continue;
                    };
                    for ox in 0..out_w {
                        let Some(x) = (ox * g.stride + kw).checked_sub(g.padding).filter(|&x| x < g.width)
                        else {
                            continue;
                        };
                        let input = ((b * g.c_in + i) * g.height + y) * g.width + x;
                        visit(input, weight, ((b * g.c_out + o) * out_h + oy) * out_w + ox);
                    }
                }
            }
        }
    }
}

fn triples(a: usize, b: usize, c: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..a).flat_map(move |i| (0..b).flat_map(move |j| (0..c).map(move |k| (i, j, k))))
}

/// `out` (B, C_out, H', W') = `input` (B, C_in, H, W) * `weight` (C_out, C_in, K, K), no bias.
pub(in crate::kernels) fn forward<T: Element>(geometry: &Geometry, input: &[T], weight: &[T], out: &mut [T]) {
    out.fill(T::ZERO);
    for_each_product(geometry, |i, w, o| out[o] += input[i] * weight[w]);
}

/// Gradient with respect to the input, from `grad_out` (B, C_out, H', W').
pub(in crate::kernels) fn grad_input<T: Element>(
    geometry: &Geometry,
    grad_out: &[T],
    weight: &[T],
    grad_input: &mut [T],
) {
    grad_input.fill(T::ZERO);
    for_each_product(geometry, |i, w, o| grad_input[i] += grad_out[o] * weight[w]);
}

/// Gradient with respect to the weight, from `grad_out` (B, C_out, H', W').
pub(in crate::kernels) fn grad_weight<T: Element>(
    geometry: &Geometry,
    grad_out: &[T],
    input: &[T],
    grad_weight: &mut [T],
) {
    let mut sums = vec![0.0; grad_weight.len()];
    for_each_product(geometry, |i, w, o| sums[w] += input[i].wide() * grad_out[o].wide());
    for (grad, sum) in grad_weight.iter_mut().zip(sums) {
        *grad = T::of(sum);
    }
}
