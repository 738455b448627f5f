//! What an artifact is for, by the kind of its contract: image to class, prompt to text, noise to image, image to its reconstruction.

use crate::array::{Array, Arrays, Data};
use crate::artifact::{Artifact, Result};
use crate::image::Image;
use crate::pcg64::Pcg64;

const READ: usize = 4096; // bytes of a prompt in one run
const FIRST_WRITE: usize = 8; // bytes written by the first run, so that something shows soon
const WRITE: usize = 24; // by each run after it

pub struct Classes {
    pub classes: Vec<(String, f64)>, // label and probability, the likeliest first
    pub known: bool, // false where the model was trained to say that an image is of none of its classes, and says so
}

pub struct Reconstruction {
    pub image: Image,
    pub score: f64,    // how far it is from the image
    pub unusual: bool, // whether that is more than usual
}

fn output<'a>(outputs: &'a Arrays, name: &str) -> Result<&'a Array> {
    outputs
        .get(name)
        .ok_or_else(|| format!("the model has no output {name}").into())
}

fn first(outputs: &Arrays, name: &str) -> Result<f64> {
    output(outputs, name)?
        .numbers()?
        .first()
        .copied()
        .ok_or_else(|| format!("the output {name} is empty").into())
}

fn run_on_image(artifact: &mut Artifact, image: Image) -> Result<Arrays> {
    let channels = artifact.option("channels").unwrap_or(3.0) as usize;
    let image = image.with_channels(channels)?.to_array()?;
    artifact.run(&Arrays::from([("image".to_owned(), image)]))
}

/// The classes of an image.
pub fn classify(artifact: &mut Artifact, image: Image) -> Result<Classes> {
    let outputs = run_on_image(artifact, image)?;
    let labels = artifact.labels();
    let label = |i: usize| labels.get(i).cloned().unwrap_or_else(|| i.to_string());
    let probabilities = output(&outputs, "probabilities")?.numbers()?;
    let mut classes: Vec<_> = probabilities
        .into_iter()
        .enumerate()
        .map(|(i, probability)| (label(i), probability))
        .collect();
    classes.sort_by(|a, b| b.1.total_cmp(&a.1));
    let unknown = if outputs.contains_key("unknown") {
        first(&outputs, "unknown")?
    } else {
        0.0
    };
    Ok(Classes {
        classes,
        known: unknown <= artifact.option("unknown_threshold").unwrap_or(1.0),
    })
}

/// An image as an autoencoder gives it back.
pub fn reconstruct(artifact: &mut Artifact, image: Image) -> Result<Reconstruction> {
    let outputs = run_on_image(artifact, image)?;
    let score = first(&outputs, "anomaly_score")?;
    let unusual = score
        > artifact
            .option("anomaly_threshold")
            .unwrap_or(f64::INFINITY);
    Ok(Reconstruction {
        image: Image::of(output(&outputs, "reconstruction")?, 0)?,
        score,
        unusual,
    })
}

/// `count` images of the classes `labels` (indices, used again from the start), from a seed: the same as onnxferry's `sample` makes.
pub fn sample(
    artifact: &mut Artifact,
    count: usize,
    labels: &[i64],
    seed: u64,
) -> Result<Vec<Image>> {
    let length = artifact
        .option("noise")
        .ok_or("the contract does not say how long the noise is")? as usize;
    let noise = Data::Float32(Pcg64::new(seed).normal(count * length));
    let wanted = Data::Int64(labels.iter().copied().cycle().take(count).collect());
    let inputs = Arrays::from([
        (
            "noise".to_owned(),
            Array::new(vec![count as i64, length as i64], noise)?,
        ),
        ("label".to_owned(), Array::new(vec![count as i64], wanted)?),
    ]);
    let outputs = artifact.run(&inputs)?;
    (0..count)
        .map(|i| Image::of(output(&outputs, "image")?, i))
        .collect()
}

pub struct Writing {
    pub max_bytes: usize,
    pub temperature: f32,   // 0 always takes the likeliest byte
    pub top_k: Option<i64>, // only so many of the likeliest bytes
    pub top_p: Option<f32>, // only the likeliest bytes of this probability together
    pub seed: u64,
}

impl Default for Writing {
    fn default() -> Self {
        Writing {
            max_bytes: 200,
            temperature: 0.8,
            top_k: None,
            top_p: None,
            seed: 0,
        }
    }
}

/// The text after a prompt, given to `show` piece by piece, each of whole characters: the same bytes as onnxferry's `generate` writes.
pub fn write(
    artifact: &mut Artifact,
    prompt: &str,
    options: &Writing,
    mut show: impl FnMut(&str),
) -> Result<()> {
    let mut random = Pcg64::new(options.seed);
    let scalar = |data: Data| Array::new(vec![], data);
    let mut inputs = Arrays::from([(
        "temperature".to_owned(),
        scalar(Data::Float32(vec![options.temperature]))?,
    )]);
    if let Some(top_k) = options.top_k {
        inputs.insert(
            "top_k".to_owned(),
            scalar(Data::Int64(vec![top_k.min(256)]))?,
        );
    }
    if let Some(top_p) = options.top_p {
        inputs.insert("top_p".to_owned(), scalar(Data::Float32(vec![top_p]))?);
    }
    let mut left = prompt.as_bytes();
    let mut run = |artifact: &mut Artifact, count: usize| -> Result<Vec<u8>> {
        let (part, rest) = left.split_at(left.len().min(READ));
        left = rest;
        inputs.insert(
            "prompt".to_owned(),
            Array::new(vec![1, part.len() as i64], Data::Uint8(part.to_vec()))?,
        );
        inputs.insert(
            "uniforms".to_owned(),
            Array::new(vec![1, count as i64], Data::Float32(random.uniform(count)))?,
        );
        let mut outputs = artifact.run(&inputs)?;
        let state = outputs
            .remove("state_after")
            .ok_or("the model has no output state_after")?;
        inputs.insert("state".to_owned(), state);
        Ok(output(&outputs, "bytes")?.bytes()?.to_vec())
    };
    for _ in 1..prompt.len().div_ceil(READ) {
        run(artifact, 0)?;
    }
    let mut pending: Vec<u8> = Vec::new(); // the start of a character whose last bytes are still to come
    let mut done = 0;
    while done < options.max_bytes {
        let count = (options.max_bytes - done).min(if done == 0 { FIRST_WRITE } else { WRITE });
        pending.extend(run(artifact, count)?);
        done += count;
        let whole = match pending.utf8_chunks().last() {
            Some(chunk) if done < options.max_bytes && is_start(chunk.invalid()) => {
                pending.len() - chunk.invalid().len()
            }
            _ => pending.len(),
        };
        show(&String::from_utf8_lossy(&pending[..whole]));
        pending.drain(..whole);
    }
    Ok(())
}

/// Whether more bytes could make a character of these, which are none by themselves.
fn is_start(bytes: &[u8]) -> bool {
    matches!(std::str::from_utf8(bytes), Err(error) if error.error_len().is_none())
}
