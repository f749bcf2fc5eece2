//! Compiles the interface to the capsule; no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = "../../proto";
    println!("cargo:rerun-if-changed={root}/capsule/v1");
    let files = protox::compile(["capsule/v1/guest.proto"], [root])?;
    tonic_prost_build::configure()
        .build_client(false)
        .bytes(".capsule.v1")
        .compile_fds(files)?;
    Ok(())
}
