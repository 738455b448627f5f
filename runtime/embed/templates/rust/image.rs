//! Images as binary PGM and PPM files.

use std::fs;

use crate::array::{Array, Data};
use crate::artifact::Result;

/// A byte each, in C order: rows, columns, channels (1 grey, 3 red, green, blue).
pub struct Image {
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    pub data: Vec<u8>,
}

const LONGEST_SIDE: usize = 1 << 16;

impl Image {
    /// Reads a binary PGM or PPM file of 8 bits a channel.
    pub fn read(path: &str) -> Result<Self> {
        let bytes = fs::read(path).map_err(|error| format!("{path} cannot be read: {error}"))?;
        let channels = match bytes.get(..2) {
            Some(b"P5") => 1,
            Some(b"P6") => 3,
            _ => {
                let how = "ImageMagick makes one: convert IMAGE -depth 8 image.ppm";
                return Err(format!("{path} is not a binary PGM or PPM image; {how}").into());
            }
        };
        let mut at = 2;
        let mut number = || {
            while at < bytes.len() && (bytes[at].is_ascii_whitespace() || bytes[at] == b'#') {
                let comment = bytes[at] == b'#';
                at += if comment {
                    bytes[at..]
                        .iter()
                        .position(|&byte| byte == b'\n')
                        .unwrap_or(bytes.len() - at)
                } else {
                    1
                };
            }
            let start = at;
            while at < bytes.len() && bytes[at].is_ascii_digit() {
                at += 1;
            }
            std::str::from_utf8(&bytes[start..at])
                .ok()
                .and_then(|digits| digits.parse::<usize>().ok())
                .unwrap_or(0)
        };
        let (width, height, whitest) = (number(), number(), number());
        if !(1..=LONGEST_SIDE).contains(&width) || !(1..=LONGEST_SIDE).contains(&height) {
            return Err(
                format!("{path} is not an image of 1 to {LONGEST_SIDE} pixels a side").into(),
            );
        }
        if whitest != 255 {
            return Err(
                format!("{path} has a maximum of {whitest}; only 255 is read (-depth 8)").into(),
            );
        }
        let start = at + 1; // after one white space
        let data = bytes
            .get(start..start + height * width * channels)
            .ok_or_else(|| format!("{path} is cut off"))?
            .to_vec();
        Ok(Image {
            height,
            width,
            channels,
            data,
        })
    }

    /// Writes one, and returns the name with its ending: NAME.pgm for a grey image, NAME.ppm for colour.
    pub fn write(&self, name: &str) -> Result<String> {
        let (ending, magic) = if self.channels == 1 {
            ("pgm", "P5")
        } else {
            ("ppm", "P6")
        };
        let path = format!("{name}.{ending}");
        let mut bytes = format!("{magic}\n{} {}\n255\n", self.width, self.height).into_bytes();
        bytes.extend(&self.data);
        fs::write(&path, bytes).map_err(|error| format!("{path} cannot be written: {error}"))?;
        Ok(path)
    }

    /// Grey repeated, or colour to grey (ITU-R BT.601 luma, rounded as Pillow rounds it).
    pub fn with_channels(self, channels: usize) -> Result<Self> {
        if self.channels == channels {
            return Ok(self);
        }
        let luma = |pixel: &[u8]| {
            let [red, green, blue] = [0, 1, 2].map(|channel| u32::from(pixel[channel]));
            ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16) as u8
        };
        let data = match channels {
            1 => self.data.chunks_exact(3).map(luma).collect(),
            3 => self.data.iter().flat_map(|&grey| [grey; 3]).collect(),
            _ => return Err(format!("an image has 1 or 3 channels, not {channels}").into()),
        };
        Ok(Image {
            channels,
            data,
            ..self
        })
    }

    /// Image `index` of a batch (n, height, width, channels) of uint8.
    pub fn of(images: &Array, index: usize) -> Result<Self> {
        let [_, height, width, channels] = images.shape[..] else {
            return Err("the model's output is not images".into());
        };
        let [height, width, channels] = [height, width, channels].map(|length| length as usize);
        let length = height * width * channels;
        let data = images
            .bytes()?
            .get(index * length..(index + 1) * length)
            .ok_or("the batch has no such image")?
            .to_vec();
        Ok(Image {
            height,
            width,
            channels,
            data,
        })
    }

    /// A batch of this image.
    pub fn to_array(&self) -> Result<Array> {
        let shape = vec![
            1,
            self.height as i64,
            self.width as i64,
            self.channels as i64,
        ];
        Array::new(shape, Data::Uint8(self.data.clone()))
    }
}
