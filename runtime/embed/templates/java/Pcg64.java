package onnxferry;

/**
 * numpy.random.Generator(numpy.random.PCG64(seed)): the numbers of a seed, the same as in Python.
 *
 * <pre>
 * Pcg64 random = new Pcg64(0);
 * random.uniform(3);   // three floats, as generator.random(3, dtype=float32)
 * random.normal(3);    // three floats, as generator.standard_normal(3, dtype=float32)
 * </pre>
 *
 * Sources: O'Neill, "PCG: A Family of Simple Fast Space-Efficient Statistically Good Algorithms for Random Number Generation" (2014);
 * numpy's SeedSequence; Marsaglia and Tsang, "The Ziggurat Method for Generating Random Variables" (2000), as numpy tabulates it.
 */
public final class Pcg64 {
  private static final long MULTIPLIER_HIGH = 0x2360ed051fc65da4L;
  private static final long MULTIPLIER_LOW = 0x4385df649fccf645L;

  // The ziggurat of 256 layers for the normal distribution, with 23 bits of mantissa.
  private static final double TAIL = 3.6541528853610088;
  private static final double AREA = 0.004928673233974658;
  private static final double STEPS = 1 << 23;
  private static final long[] LIMITS = new long[256];
  private static final float[] WIDTHS = new float[256];
  private static final float[] HEIGHTS = new float[256];

  static {
    double edge = TAIL;
    double height = density(edge);
    WIDTHS[255] = (float) (edge / STEPS);
    HEIGHTS[255] = (float) height;
    LIMITS[0] = Math.round(edge * height / AREA * STEPS);
    WIDTHS[0] = (float) (AREA / height / STEPS);
    HEIGHTS[0] = 1;
    for (int i = 254; i > 0; i--) {
      double x = Math.sqrt(-2 * Math.log(AREA / edge + height));
      LIMITS[i + 1] = Math.round(x / edge * STEPS);
      WIDTHS[i] = (float) (x / STEPS);
      height = density(x);
      HEIGHTS[i] = (float) height;
      edge = x;
    }
  }

  private long high = 0; // of the state of 128 bits
  private long low = 0;
  private final long incrementHigh;
  private final long incrementLow;
  private long spare = -1; // the upper half of the last 64 bits, if it has not been used

  /** seed: a whole number from 0. */
  public Pcg64(long seed) {
    if (seed < 0) {
      throw new IllegalArgumentException("a seed is a whole number from 0, got " + seed);
    }
    int[] words = seedWords(seed);
    incrementHigh = word(words, 4) << 1 | word(words, 6) >>> 63;
    incrementLow = word(words, 6) << 1 | 1;
    step();
    add(word(words, 0), word(words, 2));
    step();
  }

  private static double density(double x) {
    return Math.exp(-0.5 * x * x);
  }

  private static long word(int[] words, int i) {
    return words[i] & 0xffffffffL | (long) words[i + 1] << 32;
  }

  private void add(long otherHigh, long otherLow) {
    long sum = low + otherLow;
    high += otherHigh + (Long.compareUnsigned(sum, low) < 0 ? 1 : 0);
    low = sum;
  }

  private void step() {
    long carried = Math.multiplyHigh(low, MULTIPLIER_LOW) + (low >> 63 & MULTIPLIER_LOW); // MULTIPLIER_LOW is positive
    high = carried + high * MULTIPLIER_LOW + low * MULTIPLIER_HIGH;
    low *= MULTIPLIER_LOW;
    add(incrementHigh, incrementLow);
  }

  /** 32 random bits. */
  public long next32() {
    if (spare >= 0) {
      long value = spare;
      spare = -1;
      return value;
    }
    step();
    long value = Long.rotateRight(high ^ low, (int) (high >>> 58));
    spare = value >>> 32;
    return value & 0xffffffffL;
  }

  private float nextFloat() {
    return (next32() >>> 8) / (float) (1 << 24);
  }

  /** Numbers from 0 up to but not including 1. */
  public float[] uniform(int count) {
    float[] made = new float[count];
    for (int i = 0; i < count; i++) {
      made[i] = nextFloat();
    }
    return made;
  }

  /** Standard normal numbers. */
  public float[] normal(int count) {
    float[] made = new float[count];
    for (int i = 0; i < count; i++) {
      made[i] = nextNormal();
    }
    return made;
  }

  private float nextNormal() {
    for (; ; ) {
      long bits = next32();
      int layer = (int) (bits & 255);
      long place = bits >>> 9 & 0x7fffff;
      float positive = place * WIDTHS[layer];
      float x = (bits >>> 8 & 1) != 0 ? -positive : positive;
      if (place < LIMITS[layer]) {
        return x;
      }
      if (layer == 0) {
        for (; ; ) {
          float beyond = (float) (-Math.log1p(-nextFloat()) / TAIL);
          float other = (float) -Math.log1p(-nextFloat());
          if (other + other > beyond * beyond) {
            float far = (float) TAIL + beyond;
            return (place >>> 8 & 1) != 0 ? -far : far;
          }
        }
      }
      float height = (HEIGHTS[layer - 1] - HEIGHTS[layer]) * nextFloat() + HEIGHTS[layer];
      if (height < density(x)) {
        return x;
      }
    }
  }

  /** numpy.random.SeedSequence(seed).generate_state(8, uint32) */
  private static int[] seedWords(long seed) {
    int[] constant = {0x43b0d7e5};
    int[] pool = new int[4];
    int[] entropy = {(int) seed, (int) (seed >>> 32), 0, 0};
    for (int i = 0; i < 4; i++) {
      pool[i] = hash(entropy[i], constant, 0x931e8875);
    }
    for (int from = 0; from < 4; from++) {
      for (int to = 0; to < 4; to++) {
        if (from != to) {
          int mixed = 0xca01f9dd * pool[to] - 0x4973f715 * hash(pool[from], constant, 0x931e8875);
          pool[to] = mixed ^ mixed >>> 16;
        }
      }
    }
    int[] other = {0x8b51f9dd};
    int[] made = new int[8];
    for (int i = 0; i < 8; i++) {
      made[i] = hash(pool[i % 4], other, 0x58f38ded);
    }
    return made;
  }

  private static int hash(int value, int[] constant, int factor) {
    value ^= constant[0];
    constant[0] *= factor;
    value *= constant[0];
    return value ^ value >>> 16;
  }
}
