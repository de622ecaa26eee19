//! The `ringpost` program: see `ringpost::cli`.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // With huge pages a waiting recipient costs 102 bytes instead of 88, an idle relay twice the
    // memory, and nothing is faster for it. Where the kernel refuses, it costs just that.
    let _ = nix::sys::prctl::set_thp_disable(true);
    ringpost::cli::main()
}
