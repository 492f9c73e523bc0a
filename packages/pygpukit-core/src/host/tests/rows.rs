//! `embedding`, `gather_rows` and `add`.

use super::super::simd::at_each_level;
use super::*;

#[test]
fn embedding_adds_scaled_rows_and_marks_missing_ones() {
    at_each_level(|_| {
        let mut random = Random(4);
        let weight = random.tensor::<bf16>(&[10, 37]);
        let table = random.tensor::<f16>(&[6, 37]);
        let (ids, positions) = ([3.0, 9.0, 10.0, -1.0, 0.0], [0.0, 5.0, 1.0, 1.0, 6.0]);
        let out = Tensor::empty::<f32>(&[5, 37]);
        let args =
            [Tensor::new::<i32>(&[5], ids), weight, Tensor::new::<i32>(&[5], positions), table];
        let mut values: Vec<ArgValue> = args.iter().map(Tensor::arg).collect();
        values.extend([out.arg(), ArgValue::Float(0.5)]);
        launch("embedding", &values).unwrap();
        let (weight, table, out) =
            (args[1].read::<bf16>(), args[3].read::<f16>(), out.read::<f32>());
        for column in 0..37 {
            for token in 0..2 {
                let x = weight[ids[token] as usize * 37 + column].to_f32() * 0.5;
                let y = table[positions[token] as usize * 37 + column].to_f32();
                assert_eq!(out[token * 37 + column], x + y);
            }
            for token in 2..5 {
                assert!(out[token * 37 + column].is_nan());
            }
        }
    });
}

#[test]
fn embedding_dequantises_blocks() {
    at_each_level(|level| {
        for dtype in BLOCKS {
            let mut random = Random(9);
            let weight = Tensor::blocks(&mut random, dtype, &[5, 96]);
            let out = Tensor::empty::<f32>(&[3, 96]);
            let ids = Tensor::new::<i32>(&[3], [4.0, 5.0, 0.0]);
            let args = [ids.arg(), weight.arg(), ArgValue::None, ArgValue::None, out.arg()];
            launch("embedding", &[&args[..], &[ArgValue::Float(1.0)]].concat()).unwrap();
            let (weight, out) = (weight.dequantised(), out.read::<f32>());
            assert_eq!(out[..96], weight[4 * 96..], "{level} {dtype}");
            assert!(out[96..192].iter().all(|value| value.is_nan()), "{level} {dtype}");
            assert_eq!(out[192..], weight[..96], "{level} {dtype}");
        }
    });
}

#[test]
fn embedding_needs_both_positions_and_their_table() {
    let (ids, weight) = (Tensor::new::<i32>(&[1], [0.0]), Random(1).tensor::<f32>(&[2, 3]));
    let out = Tensor::empty::<f32>(&[1, 3]);
    let mut args = vec![ids.arg(), weight.arg(), ids.arg(), ArgValue::None, out.arg()];
    args.push(ArgValue::Float(1.0));
    assert!(refusal("embedding", &args).contains("or neither"));
}

#[test]
fn rows_are_gathered() {
    let x = Random(8).tensor::<f32>(&[4, 9]);
    let rows = Tensor::new::<i32>(&[3], [2.0, 0.0, 4.0]);
    let out = Tensor::empty::<f32>(&[3, 9]);
    launch("gather_rows", &[x.arg(), rows.arg(), out.arg()]).unwrap();
    let (x, out) = (x.read::<f32>(), out.read::<f32>());
    assert_eq!(out[..9], x[18..27]);
    assert_eq!(out[9..18], x[..9]);
    assert!(out[18..].iter().all(|value| value.is_nan()));
}

#[test]
fn scaled_sums_are_right_and_work_in_place() {
    at_each_level(|_| {
        let mut random = Random(6);
        let (x, y) = (random.tensor::<f32>(&[5, 21]), random.tensor::<f32>(&[5, 21]));
        let expected: Vec<f32> =
            x.read::<f32>().iter().zip(y.read::<f32>()).map(|(x, y)| y * 0.25 + x).collect();
        launch("add", &[x.arg(), y.arg(), x.arg(), ArgValue::Float(0.25)]).unwrap();
        assert_eq!(x.read::<f32>(), expected);
    });
}
