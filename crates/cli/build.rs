//! Tells the linker where the binary finds XGBoost's library when it starts.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Beside the binary, or where an installation has libraries; on the machine that built it, where
    // it was built with.
    if let Ok(folder) = env::var("DEP_EMBEDRING_LEARNED_XGBOOST_DIR") {
        for place in ["$ORIGIN", "$ORIGIN/../lib/embedring", &folder] {
            println!("cargo::rustc-link-arg-bins=-Wl,-rpath,{place}");
        }
    }
}
