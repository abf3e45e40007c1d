//! The program around the world: start, exit, and the few symbols that compiled code expects.

#![no_std]
#![no_main]

mod world;

use core::arch::asm;
use core::panic::PanicInfo;

#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "and rsp, -16",
    "call {run}",
    "ud2",
    run = sym run,
);

#[cfg(target_arch = "aarch64")]
core::arch::global_asm!(
    ".globl _start",
    "_start:",
    "mov x29, xzr",
    "bl {run}",
    "brk #0",
    run = sym run,
);

extern "C" fn run() -> ! {
    let code = match world::run() {
        Ok(()) => 0,
        Err(world::Step(number)) => number,
    };
    exit(code)
}

fn exit(code: u8) -> ! {
    // SAFETY: `exit_group` takes one number and does not return.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        asm!("syscall", in("rax") 231, in("rdi") u64::from(code), options(noreturn, nostack));
        #[cfg(target_arch = "aarch64")]
        asm!("svc 0", in("x8") 94, in("x0") u64::from(code), options(noreturn, nostack));
    }
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    exit(101)
}

/// The compiled `core` names these two, though nothing unwinds here.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    exit(102)
}

/// What a C library would bring. Volatile accesses keep the compiler from making these call themselves.
mod memory {
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
        let mut at = 0;
        while at < len {
            // SAFETY: the caller promises `len` bytes at both.
            unsafe { to.add(at).write_volatile(from.add(at).read_volatile()) };
            at += 1;
        }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
        if (to as usize) <= (from as usize) {
            // SAFETY: forwards, no byte is written before it was read.
            return unsafe { memcpy(to, from, len) };
        }
        let mut at = len;
        while at > 0 {
            at -= 1;
            // SAFETY: the caller promises `len` bytes at both.
            unsafe { to.add(at).write_volatile(from.add(at).read_volatile()) };
        }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memset(to: *mut u8, byte: i32, len: usize) -> *mut u8 {
        let mut at = 0;
        while at < len {
            // SAFETY: the caller promises `len` bytes.
            unsafe { to.add(at).write_volatile(byte as u8) };
            at += 1;
        }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcmp(one: *const u8, two: *const u8, len: usize) -> i32 {
        let mut at = 0;
        while at < len {
            // SAFETY: the caller promises `len` bytes at both.
            let (a, b) = unsafe { (one.add(at).read_volatile(), two.add(at).read_volatile()) };
            if a != b {
                return i32::from(a) - i32::from(b);
            }
            at += 1;
        }
        0
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn bcmp(one: *const u8, two: *const u8, len: usize) -> i32 {
        // SAFETY: the caller's promises are the callee's.
        unsafe { memcmp(one, two, len) }
    }
}
