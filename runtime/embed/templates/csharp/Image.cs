using System;
using System.IO;
using System.Text;

namespace Onnxferry
{
    /// <summary>An image: rows, columns, channels (1 grey, 3 red, green, blue), a byte each, in C order.</summary>
    public sealed class Image
    {
        private const int LongestSide = 1 << 16;

        public readonly int Height;
        public readonly int Width;
        public readonly int Channels;
        public readonly byte[] Data;

        public Image(int height, int width, int channels, byte[] data)
        {
            Height = height;
            Width = width;
            Channels = channels;
            Data = data;
        }

        /// <summary>Reads a binary PGM or PPM file of 8 bits a channel.</summary>
        public static Image Read(string path)
        {
            if (!File.Exists(path))
            {
                throw new IOException("there is no file " + path);
            }
            var bytes = File.ReadAllBytes(path);
            if (bytes.Length < 2 || bytes[0] != 'P' || (bytes[1] != '5' && bytes[1] != '6'))
            {
                throw new IOException(path + " is not a binary PGM or PPM image; ImageMagick makes one: convert IMAGE -depth 8 image.ppm");
            }
            var at = 2;
            var channels = bytes[1] == '5' ? 1 : 3;
            var width = Number(bytes, ref at);
            var height = Number(bytes, ref at);
            var whitest = Number(bytes, ref at);
            if (width < 1 || height < 1 || width > LongestSide || height > LongestSide)
            {
                throw new IOException(path + " is not an image of 1 to 65536 pixels a side");
            }
            if (whitest != 255)
            {
                throw new IOException(path + " has a maximum of " + whitest + "; only 255 is read (-depth 8)");
            }
            var length = (long)height * width * channels;
            at++; // one white space
            if (bytes.Length - at < length)
            {
                throw new IOException(path + " is cut off");
            }
            var data = new byte[length];
            Array.Copy(bytes, at, data, 0, length);
            return new Image(height, width, channels, data);
        }

        /// <summary>The next number in the header, after white space and comments; 0 where there is none.</summary>
        private static int Number(byte[] bytes, ref int at)
        {
            while (at < bytes.Length && (bytes[at] == '#' || bytes[at] == ' ' || (bytes[at] >= '\t' && bytes[at] <= '\r')))
            {
                if (bytes[at] == '#')
                {
                    while (at < bytes.Length && bytes[at] != '\n')
                    {
                        at++;
                    }
                }
                else
                {
                    at++;
                }
            }
            var value = 0;
            for (; at < bytes.Length && bytes[at] >= '0' && bytes[at] <= '9'; at++)
            {
                value = Math.Min(10 * value + bytes[at] - '0', 10000000);
            }
            return value;
        }

        /// <summary>Writes one, and returns the name with its ending: NAME.pgm for a grey image, NAME.ppm for colour.</summary>
        public string Write(string name)
        {
            var path = name + (Channels == 1 ? ".pgm" : ".ppm");
            using (var file = File.Create(path))
            {
                var header = Encoding.ASCII.GetBytes((Channels == 1 ? "P5\n" : "P6\n") + Width + " " + Height + "\n255\n");
                file.Write(header, 0, header.Length);
                file.Write(Data, 0, Data.Length);
            }
            return path;
        }

        /// <summary>Grey repeated, or colour to grey (ITU-R BT.601 luma, rounded as Pillow rounds it).</summary>
        public Image WithChannels(int channels)
        {
            if (Channels == channels)
            {
                return this;
            }
            if (channels != 1 && channels != 3)
            {
                throw new ArgumentException("an image has 1 or 3 channels, not " + channels);
            }
            var data = new byte[Height * Width * channels];
            for (var i = 0; i < Height * Width; i++)
            {
                if (channels == 3)
                {
                    data[3 * i] = data[3 * i + 1] = data[3 * i + 2] = Data[i];
                }
                else
                {
                    data[i] = (byte)((Data[3 * i] * 19595 + Data[3 * i + 1] * 38470 + Data[3 * i + 2] * 7471 + 0x8000) >> 16);
                }
            }
            return new Image(Height, Width, channels, data);
        }

        /// <summary>Image `index` of a batch (n, height, width, channels) of uint8.</summary>
        public static Image Of(NDArray images, int index)
        {
            if (!(images.Values is byte[]) || images.Dtype != "uint8" || images.Shape.Length != 4 || index >= images.Shape[0])
            {
                throw new ArgumentException("the model's output is not images of uint8");
            }
            var data = new byte[images.Shape[1] * images.Shape[2] * images.Shape[3]];
            Array.Copy(images.Values, index * data.Length, data, 0, data.Length);
            return new Image(images.Shape[1], images.Shape[2], images.Shape[3], data);
        }

        /// <summary>A batch of this image.</summary>
        public NDArray ToArray()
        {
            return new NDArray(Data, 1, Height, Width, Channels);
        }
    }
}
