//! numpy.random.Generator(numpy.random.PCG64(seed)): the numbers of a seed, the same as in Python.
//!
//! Sources: O'Neill, "PCG: A Family of Simple Fast Space-Efficient Statistically Good Algorithms for Random Number Generation" (2014);
//! numpy's SeedSequence; Marsaglia and Tsang, "The Ziggurat Method for Generating Random Variables" (2000), as numpy tabulates it.

const MULTIPLIER: u128 = 0x2360ed051fc65da44385df649fccf645;

// The ziggurat of 256 layers for the normal distribution, with 23 bits of mantissa.
const TAIL: f64 = 3.654152885361009;
const AREA: f64 = 0.004928673233974658;
const STEPS: f64 = (1 << 23) as f64;

pub struct Pcg64 {
    state: u128,
    increment: u128,
    spare: Option<u32>, // the upper half of the last 64 bits
    ziggurat: Ziggurat,
}

struct Ziggurat {
    limits: [u32; 256],
    widths: [f32; 256],
    heights: [f32; 256],
}

impl Pcg64 {
    pub fn new(seed: u64) -> Self {
        let words = seed_words(seed);
        let word = |i: usize| u128::from(words[i]) | u128::from(words[i + 1]) << 32;
        let increment = (word(4) << 64 | word(6)) << 1 | 1;
        let mut made = Pcg64 {
            state: 0,
            increment,
            spare: None,
            ziggurat: ziggurat(),
        };
        made.step();
        made.state = made.state.wrapping_add(word(0) << 64 | word(2));
        made.step();
        made
    }

    fn step(&mut self) {
        self.state = self
            .state
            .wrapping_mul(MULTIPLIER)
            .wrapping_add(self.increment);
    }

    pub fn next_u32(&mut self) -> u32 {
        if let Some(value) = self.spare.take() {
            return value;
        }
        self.step();
        let folded = (self.state >> 64) as u64 ^ self.state as u64;
        let value = folded.rotate_right((self.state >> 122) as u32);
        self.spare = Some((value >> 32) as u32);
        value as u32
    }

    fn next_f32(&mut self) -> f32 {
        (self.next_u32() >> 8) as f32 / (1 << 24) as f32
    }

    /// Numbers from 0 up to but not including 1, as generator.random(count, dtype=float32).
    pub fn uniform(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.next_f32()).collect()
    }

    /// Standard normal numbers, as generator.standard_normal(count, dtype=float32).
    pub fn normal(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.next_normal()).collect()
    }

    fn next_normal(&mut self) -> f32 {
        loop {
            let bits = self.next_u32();
            let layer = (bits & 255) as usize;
            let place = bits >> 9 & 0x7fffff;
            let positive = place as f32 * self.ziggurat.widths[layer];
            let x = if bits >> 8 & 1 == 1 {
                -positive
            } else {
                positive
            };
            if place < self.ziggurat.limits[layer] {
                return x;
            }
            if layer == 0 {
                loop {
                    let beyond = (-f64::from(-self.next_f32()).ln_1p() / TAIL) as f32;
                    let other = -f64::from(-self.next_f32()).ln_1p() as f32;
                    if other + other > beyond * beyond {
                        let far = TAIL as f32 + beyond;
                        return if place >> 8 & 1 == 1 { -far } else { far };
                    }
                }
            }
            let [above, below] = [
                self.ziggurat.heights[layer - 1],
                self.ziggurat.heights[layer],
            ];
            let height = (above - below) * self.next_f32() + below;
            if f64::from(height) < density(f64::from(x)) {
                return x;
            }
        }
    }
}

fn density(x: f64) -> f64 {
    (-0.5 * x * x).exp()
}

fn ziggurat() -> Ziggurat {
    let mut table = Ziggurat {
        limits: [0; 256],
        widths: [0.0; 256],
        heights: [0.0; 256],
    };
    let mut edge = TAIL;
    let mut height = density(edge);
    table.widths[255] = (edge / STEPS) as f32;
    table.heights[255] = height as f32;
    table.limits[0] = (edge * height / AREA * STEPS).round() as u32;
    table.widths[0] = (AREA / height / STEPS) as f32;
    table.heights[0] = 1.0;
    for i in (1..255).rev() {
        let x = (-2.0 * (AREA / edge + height).ln()).sqrt();
        table.limits[i + 1] = (x / edge * STEPS).round() as u32;
        table.widths[i] = (x / STEPS) as f32;
        height = density(x);
        table.heights[i] = height as f32;
        edge = x;
    }
    table
}

/// numpy.random.SeedSequence(seed).generate_state(8, uint32)
fn seed_words(seed: u64) -> [u32; 8] {
    let hasher = |start: u32, factor: u32| {
        let mut constant = start;
        move |value: u32| {
            let value = value ^ constant;
            constant = constant.wrapping_mul(factor);
            let value = value.wrapping_mul(constant);
            value ^ value >> 16
        }
    };
    let mut hash = hasher(0x43b0d7e5, 0x931e8875);
    let mut pool = [seed as u32, (seed >> 32) as u32, 0, 0].map(&mut hash);
    for from in 0..4 {
        for to in (0..4).filter(|&to| to != from) {
            let mixed = 0xca01f9ddu32
                .wrapping_mul(pool[to])
                .wrapping_sub(0x4973f715u32.wrapping_mul(hash(pool[from])));
            pool[to] = mixed ^ mixed >> 16;
        }
    }
    let mut other = hasher(0x8b51f9dd, 0x58f38ded);
    std::array::from_fn(|i| other(pool[i % 4]))
}
