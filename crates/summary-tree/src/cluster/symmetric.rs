//! The largest eigenvalues of a symmetric positive semidefinite matrix, and their vectors.
//!
//! Orthogonal iteration with a few columns to spare, then Rayleigh and Ritz: Golub and Van Loan, "Matrix Computations",
//! 8.2. The small problem at the end is solved by Jacobi's rotations, 8.5 there.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::points::dot;

/// Columns iterated beside those that are wanted: they take up what would slow the wanted ones down.
const SPARE: usize = 8;
/// Iterations at most. Directions that have not settled by then have nearly equal variance, and any of them will do.
const ITERATIONS: usize = 50;
/// Relative change of every wanted eigenvalue at which the iteration ends.
const SETTLED: f64 = 1e-6;
/// Rows of a product from which on it is worth more than one thread.
const PARALLEL: usize = 128;

/// Eigenvalues, falling, and for each a vector of length 1 whose largest component is positive.
pub(crate) type Eigen = Vec<(f64, Vec<f64>)>;

/// The `count` largest of `matrix`, which has `size` rows.
pub(crate) fn largest(matrix: &[f64], size: usize, count: usize, seed: u64) -> Eigen {
    let columns = (count + SPARE).min(size);
    if columns == size {
        return finish(jacobi(matrix.to_vec(), size), count);
    }
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut basis: Vec<Vec<f64>> =
        (0..columns).map(|_| (0..size).map(|_| random.random_range(-1.0..1.0)).collect()).collect();
    orthonormalise(&mut basis);
    let mut values = vec![0.0; count];
    for _ in 0..ITERATIONS {
        let product = times(matrix, size, &basis);
        let found: Vec<f64> = product.iter().zip(&basis).take(count).map(|(p, b)| dot(p, b)).collect();
        let top = found.first().copied().unwrap_or(0.0).abs();
        let settled = found.iter().zip(&values).all(|(new, old)| (new - old).abs() <= SETTLED * top);
        values = found;
        basis = product;
        orthonormalise(&mut basis);
        if settled {
            break;
        }
    }
    let product = times(matrix, size, &basis);
    let small: Vec<f64> = basis.iter().flat_map(|b| product.iter().map(|p| dot(b, p))).collect();
    let rotated = jacobi(small, columns).into_iter().map(|(value, mix)| {
        let mut vector = vec![0.0; size];
        for (share, column) in mix.iter().zip(&basis) {
            vector.iter_mut().zip(column).for_each(|(v, c)| *v += share * c);
        }
        (value, vector)
    });
    finish(rotated.collect(), count)
}

/// Sorted, cut and with definite signs.
fn finish(mut eigen: Eigen, count: usize) -> Eigen {
    eigen.sort_by(|a, b| b.0.total_cmp(&a.0));
    eigen.truncate(count);
    for (_, vector) in &mut eigen {
        let largest = vector.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap_or(0.0);
        let length = dot(vector, vector).sqrt();
        let scale = if length > 0.0 { largest.signum() / length } else { 0.0 };
        vector.iter_mut().for_each(|v| *v *= scale);
    }
    eigen
}

fn times(matrix: &[f64], size: usize, basis: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let column = |vector: &Vec<f64>| matrix.chunks_exact(size).map(|row| dot(row, vector)).collect();
    if size < PARALLEL { basis.iter().map(column).collect() } else { basis.par_iter().map(column).collect() }
}

/// Gram and Schmidt, twice: once loses orthogonality where columns are nearly dependent.
fn orthonormalise(basis: &mut [Vec<f64>]) {
    for i in 0..basis.len() {
        let (done, rest) = basis.split_at_mut(i);
        let Some(column) = rest.first_mut() else { return };
        for _ in 0..2 {
            for other in done.iter() {
                let share = dot(column, other);
                column.iter_mut().zip(other).for_each(|(c, o)| *c -= share * o);
            }
        }
        let length = dot(column, column).sqrt();
        // A column in the span of the others stays zero: it has nothing more to find.
        let scale = if length > 1e-150 { 1.0 / length } else { 0.0 };
        column.iter_mut().for_each(|c| *c *= scale);
    }
}

/// All eigenvalues and vectors of a small matrix.
fn jacobi(mut a: Vec<f64>, size: usize) -> Eigen {
    let mut vectors = vec![0.0; size * size];
    (0..size).for_each(|i| vectors[i * size + i] = 1.0);
    for _ in 0..60 {
        let off: f64 = (0..size).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| a[i * size + j].powi(2)).sum();
        let diagonal: f64 = (0..size).map(|i| a[i * size + i].powi(2)).sum();
        if off <= 1e-28 * diagonal || off == 0.0 {
            break;
        }
        for p in 0..size {
            for q in p + 1..size {
                let apq = a[p * size + q];
                if apq == 0.0 {
                    continue;
                }
                let theta = (a[q * size + q] - a[p * size + p]) / (2.0 * apq);
                let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                let cos = 1.0 / (t * t + 1.0).sqrt();
                let sin = t * cos;
                for k in 0..size {
                    let (x, y) = (a[k * size + p], a[k * size + q]);
                    (a[k * size + p], a[k * size + q]) = (cos * x - sin * y, sin * x + cos * y);
                }
                for k in 0..size {
                    let (x, y) = (a[p * size + k], a[q * size + k]);
                    (a[p * size + k], a[q * size + k]) = (cos * x - sin * y, sin * x + cos * y);
                    let (x, y) = (vectors[p * size + k], vectors[q * size + k]);
                    (vectors[p * size + k], vectors[q * size + k]) = (cos * x - sin * y, sin * x + cos * y);
                }
            }
        }
    }
    (0..size).map(|i| (a[i * size + i], vectors[i * size..(i + 1) * size].to_vec())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// XᵀX of random X with falling column scales.
    fn gram(size: usize, rank: usize, seed: u64) -> Vec<f64> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let rows: Vec<Vec<f64>> = (0..rank)
            .map(|i| (0..size).map(|_| random.random_range(-1.0..1.0) * 0.8_f64.powi(i as i32)).collect())
            .collect();
        (0..size)
            .flat_map(|i| (0..size).map(move |j| (i, j)))
            .map(|(i, j)| rows.iter().map(|r| r[i] * r[j]).sum())
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn vectors_are_orthonormal_and_satisfy_the_equation(size in 1..60usize, rank in 0..70usize, seed in 0..1000u64) {
            let matrix = gram(size, rank, seed);
            let found = largest(&matrix, size, 5, seed);
            prop_assert_eq!(found.len(), size.min(5));
            let top = found[0].0.max(1e-9);
            prop_assert!(found.windows(2).all(|pair| pair[0].0 >= pair[1].0));
            for (i, (value, vector)) in found.iter().enumerate() {
                let residual = matrix.chunks_exact(size).zip(vector).map(|(row, v)| (dot(row, vector) - value * v).powi(2)).sum::<f64>().sqrt();
                prop_assert!(residual <= 1e-3 * top, "{} of {}", residual, top);
                if *value > 1e-9 * top {
                    prop_assert!((dot(vector, vector) - 1.0).abs() < 1e-9);
                    for (_, other) in &found[..i] {
                        prop_assert!(dot(vector, other).abs() < 1e-6);
                    }
                }
            }
        }
    }

    #[test]
    fn a_known_matrix() {
        let found = largest(&[2.0, 1.0, 1.0, 2.0], 2, 2, 1);
        assert!((found[0].0 - 3.0).abs() < 1e-12 && (found[1].0 - 1.0).abs() < 1e-12);
        let half = 0.5_f64.sqrt();
        assert!(found[0].1.iter().all(|v| (v - half).abs() < 1e-9));
    }
}
