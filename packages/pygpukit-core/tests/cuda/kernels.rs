//! Kernels to test the device with: PTX text, registered like any other image.

use std::sync::OnceLock;

use pygpukit_core::cuda::{CudaKernel, CudaLaunch, Parameters, register_images};
use pygpukit_core::device::{Device, Ordinal};
use pygpukit_core::dispatch::{Kernel, KernelArgs, KernelDispatchController, Param, Signature};
use pygpukit_core::dtype::DType;

const F32: &[DType] = &[DType::F32];
const I32: &[DType] = &[DType::I32];

/// For every GPU.
const BASIC: &str = r"
.version 7.0
.target sm_80
.address_size 64
.extern .shared .align 16 .b8 memory[];

// y[i] += scale * x[i] for i < n
.visible .entry basic_axpy(.param .u64 x, .param .u64 y, .param .f32 scale, .param .u32 n)
{
    .reg .pred %p; .reg .b32 %i, %n, %b, %t; .reg .b64 %x, %y, %o; .reg .f32 %s, %a, %c;
    ld.param.u64 %x, [x]; ld.param.u64 %y, [y]; ld.param.f32 %s, [scale]; ld.param.u32 %n, [n];
    mov.u32 %i, %ctaid.x; mov.u32 %b, %ntid.x; mov.u32 %t, %tid.x; mad.lo.u32 %i, %i, %b, %t;
    setp.ge.u32 %p, %i, %n;
    @%p ret;
    mul.wide.u32 %o, %i, 4; add.u64 %x, %x, %o; add.u64 %y, %y, %o;
    ld.global.f32 %a, [%x]; ld.global.f32 %c, [%y];
    fma.rn.f32 %c, %s, %a, %c;
    st.global.f32 [%y], %c;
    ret;
}

// y[0] = x[0], not before `wait` nanoseconds have passed
.visible .entry basic_delayed_copy(.param .u64 x, .param .u64 y, .param .u64 wait)
{
    .reg .pred %p; .reg .b64 %x, %y, %w, %start, %now; .reg .f32 %a;
    ld.param.u64 %x, [x]; ld.param.u64 %y, [y]; ld.param.u64 %w, [wait];
    mov.u64 %start, %globaltimer;
again:
    mov.u64 %now, %globaltimer; sub.u64 %now, %now, %start; setp.lt.u64 %p, %now, %w;
    @%p bra again;
    ld.volatile.global.f32 %a, [%x]; st.global.f32 [%y], %a;
    ret;
}

// y[0] = the dynamic shared memory of the block, having used its last word
.visible .entry basic_shared(.param .u64 y)
{
    .reg .b32 %n, %a; .reg .b64 %y;
    ld.param.u64 %y, [y];
    mov.u32 %n, %dynamic_smem_size; mov.u32 %a, memory; add.u32 %a, %a, %n; sub.u32 %a, %a, 4;
    st.shared.u32 [%a], %n; ld.shared.u32 %n, [%a]; st.global.u32 [%y], %n;
    ret;
}

// Writes where there is no memory.
.visible .entry basic_broken()
{
    .reg .b64 %a;
    mov.u64 %a, 64;
    st.global.u32 [%a], 1;
    ret;
}
";

/// For GPUs with clusters and dependent launches.
const HOPPER: &str = r"
.version 8.0
.target sm_90
.address_size 64

// y[block] = the number of blocks in its cluster
.visible .entry hopper_cluster(.param .u64 y)
{
    .reg .b32 %i, %n; .reg .b64 %y, %o;
    ld.param.u64 %y, [y];
    mov.u32 %i, %ctaid.x; mov.u32 %n, %cluster_nctaid.x;
    mul.wide.u32 %o, %i, 4; add.u64 %y, %y, %o;
    st.global.u32 [%y], %n;
    ret;
}

// y[0] = y[0] + 1, begun before the kernel before it has ended
.visible .entry hopper_increment(.param .u64 y)
{
    .reg .b32 %n; .reg .b64 %y;
    griddepcontrol.launch_dependents;
    ld.param.u64 %y, [y];
    griddepcontrol.wait;
    ld.volatile.global.u32 %n, [%y]; add.u32 %n, %n, 1; st.volatile.global.u32 [%y], %n;
    ret;
}
";

static AXPY: CudaKernel = CudaKernel {
    signature: &Signature {
        name: "axpy",
        params: &[Param::input("x", F32, 1), Param::inout("y", F32, 1), Param::float("scale")],
    },
    check: |args| match args.tensor(0).shape == args.tensor(1).shape {
        true => Ok(()),
        false => Err(args.refuse(0, "x must be as long as y")),
    },
    plan: |args, plan| {
        let n = args.tensor(1).elements() as i32;
        let parameters = pointers(args, 2).float(args.float(2) as f32).int(n);
        plan.launch(launch("basic", "basic_axpy", n.unsigned_abs().div_ceil(256), 256, parameters));
    },
};

/// `y = x`, by way of scratch memory.
static THROUGH_SCRATCH: CudaKernel = CudaKernel {
    signature: &Signature {
        name: "through_scratch",
        params: &[Param::input("x", F32, 1), Param::output("y", F32, 1)],
    },
    check: |_| Ok(()),
    plan: |args, plan| {
        let between: *mut u8 = plan.scratch(4);
        let into = Parameters::new().pointer(args.tensor(0).data).pointer(between).long(0);
        let out = Parameters::new().pointer(between).pointer(args.tensor(1).data).long(0);
        plan.launch(launch("basic", "basic_delayed_copy", 1, 1, into));
        plan.launch(launch("basic", "basic_delayed_copy", 1, 1, out));
    },
};

static DELAYED_COPY: CudaKernel = CudaKernel {
    signature: &Signature {
        name: "delayed_copy",
        params: &[Param::input("x", F32, 1), Param::output("y", F32, 1), Param::int("nanoseconds")],
    },
    check: |_| Ok(()),
    plan: |args, plan| {
        let parameters = pointers(args, 2).long(args.int(2));
        plan.launch(launch("basic", "basic_delayed_copy", 1, 1, parameters));
    },
};

static SHARED: CudaKernel = CudaKernel {
    signature: &Signature {
        name: "shared",
        params: &[Param::output("y", I32, 1), Param::int("bytes")],
    },
    check: |_| Ok(()),
    plan: |args, plan| {
        let shared_bytes = args.int(1) as u32;
        plan.launch(CudaLaunch {
            shared_bytes,
            ..launch("basic", "basic_shared", 1, 1, pointers(args, 1))
        });
    },
};

static CLUSTER: CudaKernel = CudaKernel {
    signature: &Signature {
        name: "cluster",
        params: &[Param::output("y", I32, 1), Param::int("blocks")],
    },
    check: |_| Ok(()),
    plan: |args, plan| {
        let grid = args.tensor(0).elements() as u32;
        let cluster = [args.int(1) as u32, 1, 1];
        plan.launch(CudaLaunch {
            cluster,
            ..launch("hopper", "hopper_cluster", grid, 1, pointers(args, 1))
        });
    },
};

static INCREMENT: CudaKernel = CudaKernel {
    signature: &Signature { name: "increment", params: &[Param::inout("y", I32, 1)] },
    check: |_| Ok(()),
    plan: |args, plan| {
        let increment = launch("hopper", "hopper_increment", 1, 1, pointers(args, 1));
        plan.launch(CudaLaunch { overlap: true, ..increment });
    },
};

static BROKEN: CudaKernel = CudaKernel {
    signature: &Signature { name: "broken", params: &[] },
    check: |_| Ok(()),
    plan: |_, plan| plan.launch(launch("basic", "basic_broken", 1, 1, Parameters::new())),
};

static MISSING: CudaKernel = CudaKernel {
    signature: &Signature { name: "missing", params: &[] },
    check: |_| Ok(()),
    plan: |_, plan| plan.launch(launch("nowhere", "nowhere_f32", 1, 1, Parameters::new())),
};

static MISNAMED: CudaKernel = CudaKernel {
    signature: &Signature { name: "misnamed", params: &[] },
    check: |_| Ok(()),
    plan: |_, plan| plan.launch(launch("basic", "basic_f64", 1, 1, Parameters::new())),
};

static CORRUPT: CudaKernel = CudaKernel {
    signature: &Signature { name: "corrupt", params: &[] },
    check: |_| Ok(()),
    plan: |_, plan| plan.launch(launch("corrupt", "corrupt_f32", 1, 1, Parameters::new())),
};

static FALLBACK: CudaKernel = CudaKernel {
    signature: &Signature { name: "fallback", params: &[] },
    check: |_| Ok(()),
    plan: |_, plan| {
        let nothing: *const u8 = std::ptr::null();
        let parameters = Parameters::new().pointer(nothing).pointer(nothing).float(0.0).int(0);
        plan.launch(launch("fallback", "basic_axpy", 1, 1, parameters));
    },
};

static TOO_LARGE: CudaKernel = CudaKernel {
    signature: &Signature { name: "too_large", params: &[] },
    check: |_| Ok(()),
    plan: |_, plan| plan.launch(launch("basic", "basic_broken", 1, 4096, Parameters::new())),
};

fn pointers(args: &KernelArgs<'_>, count: usize) -> Parameters {
    (0..count).fold(Parameters::new(), |all, index| all.pointer(args.tensor(index).data))
}

fn launch(
    source: &'static str,
    function: &'static str,
    blocks: u32,
    threads: u32,
    parameters: Parameters,
) -> CudaLaunch {
    CudaLaunch {
        source,
        function,
        grid: [blocks, 1, 1],
        block: [threads, 1, 1],
        cluster: [1, 1, 1],
        shared_bytes: 0,
        overlap: false,
        reads_early: Vec::new(),
        holds_back: false,
        delivers: None,
        parameters,
    }
}

/// The first GPU, with a controller of the kernels above; says so where there is none.
pub(crate) fn gpu() -> Option<(Ordinal, KernelDispatchController)> {
    static IMAGES: OnceLock<tempfile::TempDir> = OnceLock::new();
    let ordinal = match Ordinal::first() {
        Ok(ordinal) => ordinal,
        Err(reason) => {
            eprintln!("skipped: {reason}");
            return None;
        }
    };
    IMAGES.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("basic.compute_80.ptx", BASIC),
            ("hopper.compute_90.ptx", HOPPER),
            ("corrupt.compute_80.ptx", "This is no PTX."),
            // Machine code is tried first.
            ("fallback.sm_80.cubin", "This is no machine code."),
            ("fallback.sm_90.cubin", "Nor is this."),
            ("fallback.compute_80.ptx", BASIC),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        register_images(folder.path()).unwrap();
        folder
    });
    let kernels = [
        &AXPY,
        &THROUGH_SCRATCH,
        &DELAYED_COPY,
        &SHARED,
        &CLUSTER,
        &INCREMENT,
        &BROKEN,
        &MISSING,
        &MISNAMED,
        &CORRUPT,
        &FALLBACK,
        &TOO_LARGE,
    ];
    let kernels = kernels.map(|kernel| Kernel::Cuda(ordinal, kernel));
    Some((ordinal, KernelDispatchController::new(Device::Cuda(ordinal), kernels)))
}
