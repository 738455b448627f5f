//! {{NAME}}: verifies the model on this machine, then runs it on what the command line names.
//!
//!     cargo run --release -q --{{ARGUMENT}}

mod array;
mod artifact;
mod image;
mod pcg64;
mod tasks;

use std::io::Write;
use std::process::ExitCode;

use artifact::{Artifact, Result};
use image::Image;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/{{FILE}}");

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |i: usize| arguments.get(i).map_or("", String::as_str);
    match run(argument(0), argument(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(input: &str, second: &str) -> Result<()> {
    let mut artifact = Artifact::open(MODEL)?;
    verify(&mut artifact)?;
    match artifact.kind() {
        "recogniser" => {
            let found = tasks::classify(&mut artifact, image(input)?)?;
            for (label, probability) in found.classes.iter().take(3) {
                println!("{label}  {:.1} %", 100.0 * probability);
            }
            if !found.known {
                println!("probably none of its classes");
            }
        }
        "text-generator" => {
            let options = tasks::Writing {
                seed: whole(second, "a seed")?,
                ..Default::default()
            };
            tasks::write(&mut artifact, input, &options, |piece| {
                print!("{piece}");
                std::io::stdout().flush().ok();
            })?;
            println!();
        }
        "image-generator" => {
            let label = class_index(&artifact.labels(), input)?;
            let images = tasks::sample(&mut artifact, 1, &[label], whole(second, "a seed")?)?;
            println!("{}", images[0].write("sample")?);
        }
        "encoder" => {
            let made = tasks::reconstruct(&mut artifact, image(input)?)?;
            println!(
                "anomaly score {:.5}{}",
                made.score,
                if made.unusual { ", unusual" } else { "" }
            );
            println!("{}", made.image.write("reconstruction")?);
        }
        _ => {
            if input.is_empty() {
                return Err("give a JSON file of the inputs: { name: { dtype, shape, data } }, data a list of numbers".into());
            }
            let document = std::fs::read_to_string(input)
                .map_err(|error| format!("{input} cannot be read: {error}"))?;
            let outputs =
                artifact.run(&array::arrays_from_json(&serde_json::from_str(&document)?)?)?;
            println!("{:#}", array::arrays_to_json(&outputs));
        }
    }
    Ok(())
}

fn verify(artifact: &mut Artifact) -> Result<()> {
    let rows = artifact.check()?;
    let mut failed = 0;
    for row in &rows {
        if let Some(problem) = &row.problem {
            eprintln!("sample {}, {}: {problem}", row.sample, row.output);
            failed += 1;
        }
    }
    let count = rows.len();
    if count == 0 {
        return Err("the model has no golden samples, so it cannot be verified".into());
    }
    if failed > 0 {
        return Err(format!("the model does not give what it should on this machine: {failed} of {count} outputs failed").into());
    }
    println!("verified: {count} of {count} outputs of the golden samples are as expected");
    Ok(())
}

fn image(path: &str) -> Result<Image> {
    if path.is_empty() {
        return Err("give an image file, binary PGM or PPM, such as image.ppm".into());
    }
    Image::read(path)
}

fn whole(text: &str, what: &str) -> Result<u64> {
    if text.is_empty() {
        return Ok(0);
    }
    text.parse()
        .map_err(|_| format!("{what} is a whole number from 0, got '{text}'").into())
}

fn class_index(labels: &[String], wanted: &str) -> Result<i64> {
    if labels.is_empty() {
        return Ok(i64::try_from(whole(wanted, "a class")?)?);
    }
    let found = if wanted.is_empty() {
        Some(0)
    } else {
        labels.iter().position(|label| label == wanted)
    };
    found
        .map(|index| index as i64)
        .ok_or_else(|| format!("no class {wanted}; expected one of {}", labels.join(", ")).into())
}
