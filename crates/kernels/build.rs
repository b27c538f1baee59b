//! Compiles `kernels/*.cu` for Hopper and links them in, where the feature `cuda` is on. Does nothing otherwise. What
//! computes with 16-bit numbers is compiled twice: for bf16, and for half precision.
//!
//! The compiler is `$NVCC`, or `nvcc` of `$CUDA_HOME` (`/usr/local/cuda` by default), or of the path. The CUDA runtime is
//! linked statically, so that the program starts on a machine without CUDA, too.

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
    thread,
};

const ARCHITECTURE: &str = "-gencode=arch=compute_90a,code=sm_90a";
const LIBRARY: &str = "edgewise_cuda_kernels";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return Ok(());
    }
    for variable in ["NVCC", "CUDA_HOME"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let sources = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../../kernels").canonicalize()?;
    let home = env::var_os("CUDA_HOME").map_or_else(|| PathBuf::from("/usr/local/cuda"), PathBuf::from);
    let nvcc = nvcc(&home)?;

    let mut files: Vec<PathBuf> =
        fs::read_dir(&sources)?.map(|entry| Ok(entry?.path())).collect::<Result<_, Box<dyn Error>>>()?;
    files.sort();
    let mut compilations = Vec::new();
    for file in files {
        let extension = file.extension().and_then(|e| e.to_str()).unwrap_or_default();
        if extension == "cu" || extension == "cuh" {
            println!("cargo:rerun-if-changed={}", file.display());
        }
        if extension == "cu" {
            let formats: &[(&str, &[&str])] = match fs::read_to_string(&file)?.contains("EDGEWISE_LAUNCHER") {
                true => &[("o", &[]), ("f16.o", &["-DEDGEWISE_F16"])],
                false => &[("o", &[])],
            };
            for (extension, flags) in formats {
                let object = out.join(file.file_name().ok_or("a kernel without a name")?).with_extension(extension);
                let mut command = Command::new(&nvcc);
                command.args(["-O3", "-std=c++17", "-lineinfo", ARCHITECTURE, "-Xcompiler", "-fPIC,-Wall", "-c"]);
                command.args(*flags).arg(&file).arg("-o").arg(&object);
                compilations.push((command, object));
            }
        }
    }
    let objects: Vec<PathBuf> = compilations.iter().map(|(_, object)| object.clone()).collect();
    compile(compilations.into_iter().map(|(command, _)| command).collect())?;
    let library = out.join(format!("lib{LIBRARY}.a"));
    let _ = fs::remove_file(&library);
    run(Command::new(&nvcc).arg("-lib").args(&objects).arg("-o").arg(&library))?;

    println!("cargo:rustc-link-search=native={}", out.display());
    println!("cargo:rustc-link-lib=static={LIBRARY}");
    let runtime = ["lib64", "lib", "targets/x86_64-linux/lib"].map(|folder| home.join(folder));
    let Some(folder) = runtime.iter().find(|folder| folder.join("libcudart_static.a").exists()) else {
        return Err(format!(
            "libcudart_static.a is not below {}: set CUDA_HOME to the folder of a CUDA 13 toolkit",
            home.display()
        )
        .into());
    };
    println!("cargo:rustc-link-search=native={}", folder.display());
    println!("cargo:rustc-link-lib=static=cudart_static");
    for library in ["stdc++", "dl", "rt", "pthread"] {
        println!("cargo:rustc-link-lib=dylib={library}");
    }
    Ok(())
}

/// The compiler, which is run once to see that it works.
fn nvcc(home: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let candidates = match env::var_os("NVCC") {
        Some(nvcc) => vec![PathBuf::from(nvcc)],
        None => vec![home.join("bin/nvcc"), PathBuf::from("nvcc")],
    };
    let works = |nvcc: &&PathBuf| Command::new(nvcc).arg("--version").output().is_ok_and(|o| o.status.success());
    let message = "the feature `cuda` needs NVIDIA's compiler nvcc, CUDA 13 or later, and none was found: set NVCC to \
                   its path, or CUDA_HOME to the folder of the toolkit";
    candidates.iter().find(works).cloned().ok_or_else(|| message.into())
}

/// Runs the compiler as often at once as cargo allows.
fn compile(commands: Vec<Command>) -> Result<(), Box<dyn Error>> {
    let at_once = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1);
    let commands = Mutex::new(commands);
    let next = || commands.lock().ok().and_then(|mut left| left.pop());
    let work = || {
        while let Some(mut command) = next() {
            run(&mut command).map_err(|error| error.to_string())?;
        }
        Ok::<(), String>(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once).map(|_| scope.spawn(work)).collect();
        let mut ended = workers.into_iter().map(|worker| worker.join());
        ended.try_for_each(|result| result.unwrap_or_else(|_| Err("the compiler was not run".to_owned())))
    })
    .map_err(Into::into)
}

fn run(command: &mut Command) -> Result<(), Box<dyn Error>> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?} failed:\n{}", String::from_utf8_lossy(&output.stderr)).into())
}
