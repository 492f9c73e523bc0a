//! The end of a decoding step: what the next one reads.

use super::super::HostKernel;
use super::super::view::{View, check_layout, expect_shape};
use crate::dispatch::{Param, Signature};
use crate::dtype::DType;

/// `advance(ids (S,), token_ids (S,), positions (S,), history (S,C))`, all int32: `token_ids = ids;
/// positions += 1; history[s, positions[s]] = ids[s]`, the last where the history has that column.
pub(crate) const ADVANCE: HostKernel = HostKernel {
    signature: &Signature {
        name: "advance",
        params: &[
            Param::input("ids", &[DType::I32], 1),
            Param::output("token_ids", &[DType::I32], 1),
            Param::inout("positions", &[DType::I32], 1),
            Param::inout("history", &[DType::I32], 2),
        ],
    },
    check: |args| {
        check_layout(args)?;
        let rows = args.tensor(0).shape[0];
        expect_shape(args, 1, &[rows])?;
        expect_shape(args, 2, &[rows])?;
        expect_shape(args, 3, &[rows, args.tensor(3).shape[1]])
    },
    run: |args| {
        let [ids, token_ids, positions] =
            [0, 1, 2].map(|index| View::<i32, 1>::of(args.tensor(index)));
        let history = View::<i32, 2>::of(args.tensor(3));
        for row in 0..ids.length(0) {
            let (id, position) = (ids.get([row]), positions.get([row]).saturating_add(1));
            token_ids.set([row], id);
            positions.set([row], position);
            if let Ok(column) = usize::try_from(position)
                && column < history.length(1)
            {
                history.set([row, column], id);
            }
        }
    },
};
