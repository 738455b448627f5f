using System;

namespace Onnxferry
{
    /// <summary>numpy.random.Generator(numpy.random.PCG64(seed)): the numbers of a seed, the same as in Python.</summary>
    /// <remarks>Sources: O'Neill, "PCG: A Family of Simple Fast Space-Efficient Statistically Good Algorithms for Random Number Generation"
    /// (2014); numpy's SeedSequence; Marsaglia and Tsang, "The Ziggurat Method for Generating Random Variables" (2000), as numpy tabulates
    /// it.</remarks>
    public sealed class Pcg64
    {
        private const ulong MultiplierHigh = 0x2360ed051fc65da4;
        private const ulong MultiplierLow = 0x4385df649fccf645;

        // The ziggurat of 256 layers for the normal distribution, with 23 bits of mantissa.
        private const double Tail = 3.6541528853610088;
        private const double Area = 0.004928673233974658;
        private const double Steps = 1 << 23;
        private static readonly uint[] Limits = new uint[256];
        private static readonly float[] Widths = new float[256];
        private static readonly float[] Heights = new float[256];

        private readonly ulong incrementHigh;
        private readonly ulong incrementLow;
        private ulong high; // of the state of 128 bits
        private ulong low;
        private uint? spare; // the upper half of the last 64 bits

        static Pcg64()
        {
            var edge = Tail;
            var height = Density(edge);
            Widths[255] = (float)(edge / Steps);
            Heights[255] = (float)height;
            Limits[0] = (uint)Math.Round(edge * height / Area * Steps);
            Widths[0] = (float)(Area / height / Steps);
            Heights[0] = 1;
            for (var i = 254; i > 0; i--)
            {
                var x = Math.Sqrt(-2 * Math.Log(Area / edge + height));
                Limits[i + 1] = (uint)Math.Round(x / edge * Steps);
                Widths[i] = (float)(x / Steps);
                height = Density(x);
                Heights[i] = (float)height;
                edge = x;
            }
        }

        public Pcg64(ulong seed)
        {
            var words = SeedWords(seed);
            Func<int, ulong> word = i => words[i] | (ulong)words[i + 1] << 32;
            incrementHigh = word(4) << 1 | word(6) >> 63;
            incrementLow = word(6) << 1 | 1;
            Step();
            Add(word(0), word(2));
            Step();
        }

        private static double Density(double x)
        {
            return Math.Exp(-0.5 * x * x);
        }

        private void Add(ulong otherHigh, ulong otherLow)
        {
            unchecked
            {
                low += otherLow;
                high += otherHigh + (low < otherLow ? 1UL : 0UL);
            }
        }

        private void Step()
        {
            unchecked
            {
                ulong al = low & uint.MaxValue, ah = low >> 32, bl = MultiplierLow & uint.MaxValue, bh = MultiplierLow >> 32;
                var first = al * bl;
                var middle = ah * bl + (first >> 32);
                var other = al * bh + (middle & uint.MaxValue);
                var carried = ah * bh + (middle >> 32) + (other >> 32);
                high = carried + high * MultiplierLow + low * MultiplierHigh;
                low = other << 32 | (first & uint.MaxValue);
            }
            Add(incrementHigh, incrementLow);
        }

        /// <summary>32 random bits.</summary>
        public uint NextUInt32()
        {
            if (spare.HasValue)
            {
                var kept = spare.Value;
                spare = null;
                return kept;
            }
            Step();
            var folded = high ^ low;
            var turn = (int)(high >> 58);
            var value = folded >> turn | folded << ((64 - turn) & 63);
            spare = (uint)(value >> 32);
            return (uint)(value & uint.MaxValue);
        }

        private float NextFloat()
        {
            return (NextUInt32() >> 8) * (1f / (1 << 24));
        }

        /// <summary>Numbers from 0 up to but not including 1, as generator.random(count, dtype=float32).</summary>
        public float[] Uniform(int count)
        {
            var made = new float[count];
            for (var i = 0; i < count; i++)
            {
                made[i] = NextFloat();
            }
            return made;
        }

        /// <summary>Standard normal numbers, as generator.standard_normal(count, dtype=float32).</summary>
        public float[] Normal(int count)
        {
            var made = new float[count];
            for (var i = 0; i < count; i++)
            {
                made[i] = NextNormal();
            }
            return made;
        }

        private float NextNormal()
        {
            while (true)
            {
                var bits = NextUInt32();
                var layer = (int)(bits & 255);
                var place = bits >> 9 & 0x7fffff;
                var positive = (float)(place * Widths[layer]);
                var x = (bits >> 8 & 1) == 1 ? -positive : positive;
                if (place < Limits[layer])
                {
                    return x;
                }
                if (layer == 0)
                {
                    while (true)
                    {
                        // 1 less such a number is exact in a double, so Log needs no Log1P.
                        var beyond = (float)(-Math.Log(1.0 - NextFloat()) / Tail);
                        var other = (float)-Math.Log(1.0 - NextFloat());
                        if ((float)(other + other) > (float)(beyond * beyond))
                        {
                            var far = (float)((float)Tail + beyond);
                            return (place >> 8 & 1) == 1 ? -far : far;
                        }
                    }
                }
                // Rounded to float after each operation, as C does.
                var share = (float)((float)(Heights[layer - 1] - Heights[layer]) * NextFloat());
                if ((float)(share + Heights[layer]) < Density(x))
                {
                    return x;
                }
            }
        }

        /// <summary>numpy.random.SeedSequence(seed).generate_state(8, uint32)</summary>
        private static uint[] SeedWords(ulong seed)
        {
            unchecked
            {
                var constant = 0x43b0d7e5u;
                Func<uint, uint, uint> hash = (value, factor) =>
                {
                    value ^= constant;
                    constant *= factor;
                    value *= constant;
                    return value ^ value >> 16;
                };
                var pool = new uint[4];
                var entropy = new[] { (uint)seed, (uint)(seed >> 32), 0u, 0u };
                for (var i = 0; i < 4; i++)
                {
                    pool[i] = hash(entropy[i], 0x931e8875);
                }
                for (var from = 0; from < 4; from++)
                {
                    for (var to = 0; to < 4; to++)
                    {
                        if (from != to)
                        {
                            var mixed = 0xca01f9dd * pool[to] - 0x4973f715 * hash(pool[from], 0x931e8875);
                            pool[to] = mixed ^ mixed >> 16;
                        }
                    }
                }
                constant = 0x8b51f9dd;
                var made = new uint[8];
                for (var i = 0; i < 8; i++)
                {
                    made[i] = hash(pool[i % 4], 0x58f38ded);
                }
                return made;
            }
        }
    }
}
