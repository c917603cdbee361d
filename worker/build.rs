//! Lets the worker find libtorch: beside it in an installation (`../lib`), or through the Makefile's link in a checkout.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    for path in ["../lib", "../../.libtorch/lib", "../../../.libtorch/lib"] {
        println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/{path}");
    }
}
