using System;
using System.Collections.Generic;
using System.Linq;
using System.Text;

namespace Onnxferry
{
    /// <summary>What an artifact is for, by the kind of its contract: image to class, prompt to text, noise to image, image to its
    /// reconstruction.</summary>
    public static class Tasks
    {
        private const int Read = 4096; // bytes of a prompt in one run
        private const int FirstWrite = 8; // bytes written by the first run, so that something shows soon
        private const int NextWrite = 24; // by each run after it

        private static NDArray Output(Dictionary<string, NDArray> outputs, string name)
        {
            return outputs.TryGetValue(name, out var found) ? found : throw new ArgumentException("the model has no output " + name);
        }

        private static Dictionary<string, NDArray> RunOnImage(Artifact artifact, Image image)
        {
            var fitted = image.WithChannels((int)artifact.Option("channels", 3));
            return artifact.Run(new Dictionary<string, NDArray> { ["image"] = fitted.ToArray() });
        }

        /// <summary>The classes of an image, label and probability, the likeliest first. known: false where the model was trained to say that
        /// an image is of none of its classes, and says so.</summary>
        public static List<KeyValuePair<string, double>> Classify(Artifact artifact, Image image, out bool known)
        {
            var outputs = RunOnImage(artifact, image);
            var probabilities = Output(outputs, "probabilities");
            var labels = artifact.Labels;
            known = !outputs.TryGetValue("unknown", out var unknown) || !(unknown.Number(0) > artifact.Option("unknown_threshold", 1));
            return Enumerable.Range(0, probabilities.Values.Length)
                .Select(i => new KeyValuePair<string, double>(i < labels.Count ? labels[i] : i.ToString(), probabilities.Number(i)))
                .OrderByDescending(each => each.Value)
                .ToList();
        }

        /// <summary>An image as an autoencoder gives it back. score: how far that is from the image; unusual: whether that is more than
        /// usual.</summary>
        public static Image Reconstruct(Artifact artifact, Image image, out double score, out bool unusual)
        {
            var outputs = RunOnImage(artifact, image);
            score = Output(outputs, "anomaly_score").Number(0);
            unusual = score > artifact.Option("anomaly_threshold", double.PositiveInfinity);
            return Image.Of(Output(outputs, "reconstruction"), 0);
        }

        /// <summary>`count` images of the classes `labels` (indices, used again from the start), from a seed: the same as onnxferry's `sample`
        /// makes.</summary>
        public static List<Image> Sample(Artifact artifact, int count, long[] labels, ulong seed)
        {
            var length = (int)artifact.Option("noise", 0);
            var wanted = Enumerable.Range(0, count).Select(i => labels[i % labels.Length]).ToArray();
            var outputs = artifact.Run(new Dictionary<string, NDArray>
            {
                ["noise"] = new NDArray(new Pcg64(seed).Normal(count * length), count, length),
                ["label"] = new NDArray(wanted, count),
            });
            return Enumerable.Range(0, count).Select(i => Image.Of(Output(outputs, "image"), i)).ToList();
        }

        /// <summary>The text after a prompt, given to `show` piece by piece, each of whole characters: the same bytes as onnxferry's `generate`
        /// writes. temperature: 0 always takes the likeliest byte. topK, topP: only the likeliest bytes; 0 for the contract's default.</summary>
        public static void Write(
            Artifact artifact,
            string prompt,
            Action<string> show,
            ulong seed = 0,
            int maxBytes = 200,
            float temperature = 0.8f,
            int topK = 0,
            float topP = 0)
        {
            var random = new Pcg64(seed);
            var inputs = new Dictionary<string, NDArray> { ["temperature"] = new NDArray(new[] { temperature }) };
            if (topK > 0)
            {
                inputs["top_k"] = new NDArray(new[] { (long)Math.Min(topK, 256) });
            }
            if (topP > 0)
            {
                inputs["top_p"] = new NDArray(new[] { topP });
            }
            var left = new UTF8Encoding(false).GetBytes(prompt);
            var start = 0;
            Func<int, byte[]> run = count =>
            {
                var part = left.Skip(start).Take(Read).ToArray();
                start += part.Length;
                inputs["prompt"] = new NDArray(part, 1, part.Length);
                inputs["uniforms"] = new NDArray(random.Uniform(count), 1, count);
                var outputs = artifact.Run(inputs);
                inputs["state"] = Output(outputs, "state_after");
                return (byte[])Output(outputs, "bytes").Values;
            };
            while (left.Length - start > Read)
            {
                run(0);
            }
            var decoder = new UTF8Encoding(false).GetDecoder(); // keeps the start of a character whose last bytes are still to come
            for (var done = 0; done < maxBytes;)
            {
                var count = Math.Min(maxBytes - done, done > 0 ? NextWrite : FirstWrite);
                var bytes = run(count);
                done += count;
                var characters = new char[bytes.Length + 8];
                var made = decoder.GetChars(bytes, 0, bytes.Length, characters, 0, done >= maxBytes);
                show(new string(characters, 0, made));
            }
        }
    }
}
