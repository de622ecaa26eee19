//! The `ringpost` program: see `ringpost::cli`.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // With transparent huge pages a waiting recipient costs 102 bytes instead of 88, and an idle
    // relay twice the memory, while nothing gets faster. If the kernel refuses, we just pay that.
    let _ = nix::sys::prctl::set_thp_disable(true);
    ringpost::cli::main()
}
