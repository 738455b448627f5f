// {{NAME}}: verifies the model on this machine, then runs it on what the command line names.
//
//     dotnet run --{{ARGUMENT}}

using System;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.Linq;
using System.Text;

namespace Onnxferry
{
    public static class Program
    {
        private const string Model = "{{FILE}}";

        public static int Main(string[] arguments)
        {
            Console.OutputEncoding = new UTF8Encoding(false);
            try
            {
                using (var artifact = new Artifact(Model))
                {
                    Verify(artifact);
                    Answer(artifact, arguments.Length > 0 ? arguments[0] : "", arguments.Length > 1 ? arguments[1] : "");
                }
                return 0;
            }
            catch (Exception error)
            {
                Console.Error.WriteLine("error: " + error.Message);
                return 1;
            }
        }

        private static void Verify(Artifact artifact)
        {
            var rows = artifact.Check();
            var failed = rows.Where(row => row.Problem != null).ToList();
            foreach (var row in failed)
            {
                Console.Error.WriteLine("sample " + row.Sample + ", " + row.Output + ": " + row.Problem);
            }
            if (rows.Count == 0)
            {
                throw new InvalidDataException("the model has no golden samples, so it cannot be verified");
            }
            var of = " of " + rows.Count + " outputs";
            if (failed.Count > 0)
            {
                throw new InvalidDataException("the model does not give what it should on this machine: " + failed.Count + of + " failed");
            }
            Console.WriteLine("verified: " + rows.Count + of + " of the golden samples are as expected");
        }

        private static void Answer(Artifact artifact, string input, string second)
        {
            switch (artifact.Kind)
            {
                case "recogniser":
                    var classes = Tasks.Classify(artifact, ReadImage(input), out var known);
                    foreach (var each in classes.Take(3))
                    {
                        Console.WriteLine(string.Format(CultureInfo.InvariantCulture, "{0}  {1:F1} %", each.Key, 100 * each.Value));
                    }
                    if (!known)
                    {
                        Console.WriteLine("probably none of its classes");
                    }
                    break;
                case "text-generator":
                    Tasks.Write(artifact, input, Console.Write, Whole(second, "a seed"));
                    Console.WriteLine();
                    break;
                case "image-generator":
                    var label = ClassIndex(artifact.Labels, input);
                    Console.WriteLine(Tasks.Sample(artifact, 1, new[] { label }, Whole(second, "a seed"))[0].Write("sample"));
                    break;
                case "encoder":
                    var made = Tasks.Reconstruct(artifact, ReadImage(input), out var score, out var unusual);
                    var shown = score.ToString("F5", CultureInfo.InvariantCulture);
                    Console.WriteLine("anomaly score " + shown + (unusual ? ", unusual" : ""));
                    Console.WriteLine(made.Write("reconstruction"));
                    break;
                default:
                    if (input == "")
                    {
                        throw new ArgumentException("give a JSON file of the inputs: { name: { dtype, shape, data } }, data a list of numbers");
                    }
                    if (!File.Exists(input))
                    {
                        throw new IOException("there is no file " + input);
                    }
                    Console.WriteLine(NDArray.ToJson(artifact.Run(NDArray.FromJson(Json.Parse(File.ReadAllText(input))))));
                    break;
            }
        }

        private static Image ReadImage(string path)
        {
            return path != "" ? Image.Read(path) : throw new ArgumentException("give an image file, binary PGM or PPM, such as image.ppm");
        }

        private static ulong Whole(string text, string what)
        {
            if (text == "")
            {
                return 0;
            }
            var read = ulong.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out var number);
            return read ? number : throw new ArgumentException(what + " is a whole number from 0, got '" + text + "'");
        }

        private static long ClassIndex(List<string> labels, string wanted)
        {
            if (labels.Count == 0)
            {
                return (long)Whole(wanted, "a class");
            }
            var found = wanted == "" ? 0 : labels.IndexOf(wanted);
            var all = string.Join(", ", labels);
            return found >= 0 ? found : throw new ArgumentException("no class " + wanted + "; expected one of " + all);
        }
    }
}
