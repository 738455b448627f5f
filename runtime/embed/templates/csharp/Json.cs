using System;
using System.Collections.Generic;
using System.Globalization;
using System.Text;

namespace Onnxferry
{
    /// <summary>JSON (RFC 8259), as much of it as an artifact's contract and a file of inputs need: objects as Dictionary, lists as List,
    /// text as string, numbers as long or ulong where they are whole, else double.</summary>
    public sealed class Json
    {
        private const int Deepest = 64;

        private readonly string document;
        private int at;

        private Json(string document)
        {
            this.document = document;
        }

        /// <summary>Throws FormatException for what is not JSON, or nested deeper than 64 levels.</summary>
        public static object Parse(string document)
        {
            var parser = new Json(document);
            var value = parser.Value(0);
            if (parser.Peek() != '\0' || parser.at < document.Length)
            {
                throw Wrong();
            }
            return value;
        }

        /// <summary>An object, or an error that says so.</summary>
        public static Dictionary<string, object> Object(object value)
        {
            return value as Dictionary<string, object>
                ?? throw new FormatException("the JSON has something else where an object is expected");
        }

        /// <summary>A list, or an error that says so.</summary>
        public static List<object> List(object value)
        {
            return value as List<object> ?? throw new FormatException("the JSON has something else where a list is expected");
        }

        /// <summary>A text, or an error that says so.</summary>
        public static string Text(object value)
        {
            return value as string ?? throw new FormatException("the JSON has something else where a text is expected");
        }

        /// <summary>A number, or an error that says so.</summary>
        public static double Number(object value)
        {
            if (value is long || value is ulong || value is double)
            {
                return Convert.ToDouble(value, CultureInfo.InvariantCulture);
            }
            throw new FormatException("the JSON has something else where a number is expected");
        }

        /// <summary>A text in quotes.</summary>
        public static string Quoted(string text)
        {
            var made = new StringBuilder("\"");
            foreach (var each in text)
            {
                if (each == '"' || each == '\\')
                {
                    made.Append('\\').Append(each);
                }
                else if (each < ' ')
                {
                    made.Append("\\u").Append(((int)each).ToString("x4", CultureInfo.InvariantCulture));
                }
                else
                {
                    made.Append(each);
                }
            }
            return made.Append('"').ToString();
        }

        private static FormatException Wrong()
        {
            return new FormatException("the text is not valid JSON");
        }

        /// <summary>The next character that is not white space, or 0 at the end.</summary>
        private char Peek()
        {
            while (at < document.Length && " \t\n\r".IndexOf(document[at]) >= 0)
            {
                at++;
            }
            return at < document.Length ? document[at] : '\0';
        }

        private bool Take(char wanted)
        {
            if (Peek() != wanted)
            {
                return false;
            }
            at++;
            return true;
        }

        private object Value(int depth)
        {
            if (depth > Deepest)
            {
                throw new FormatException("the JSON is nested too deeply");
            }
            switch (Peek())
            {
                case '{':
                    return Members(depth);
                case '[':
                    return Elements(depth);
                case '"':
                    return Text();
                case 't':
                    return Word("true", true);
                case 'f':
                    return Word("false", false);
                case 'n':
                    return Word("null", null);
                default:
                    return Number();
            }
        }

        private object Word(string word, object meaning)
        {
            if (string.CompareOrdinal(document, at, word, 0, word.Length) != 0)
            {
                throw Wrong();
            }
            at += word.Length;
            return meaning;
        }

        private Dictionary<string, object> Members(int depth)
        {
            var made = new Dictionary<string, object>();
            at++;
            if (Take('}'))
            {
                return made;
            }
            do
            {
                if (Peek() != '"')
                {
                    throw Wrong();
                }
                var key = Text();
                if (!Take(':'))
                {
                    throw Wrong();
                }
                made[key] = Value(depth + 1);
            }
            while (Take(','));
            return Take('}') ? made : throw Wrong();
        }

        private List<object> Elements(int depth)
        {
            var made = new List<object>();
            at++;
            if (Take(']'))
            {
                return made;
            }
            do
            {
                made.Add(Value(depth + 1));
            }
            while (Take(','));
            return Take(']') ? made : throw Wrong();
        }

        private object Number()
        {
            var start = at;
            while (at < document.Length && "+-.0123456789eE".IndexOf(document[at]) >= 0)
            {
                at++;
            }
            var written = document.Substring(start, at - start);
            if (long.TryParse(written, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out var whole))
            {
                return whole;
            }
            if (ulong.TryParse(written, NumberStyles.None, CultureInfo.InvariantCulture, out var large))
            {
                return large;
            }
            return double.TryParse(written, NumberStyles.Float, CultureInfo.InvariantCulture, out var number) ? number : throw Wrong();
        }

        private string Text()
        {
            var made = new StringBuilder();
            for (at++; at < document.Length; at++)
            {
                var each = document[at];
                if (each == '"')
                {
                    at++;
                    return made.ToString();
                }
                if (each != '\\')
                {
                    made.Append(each);
                    continue;
                }
                at++;
                var escaped = at < document.Length ? document[at] : '\0';
                var place = "bfnrt\"\\/".IndexOf(escaped);
                if (escaped == 'u' && at + 4 < document.Length)
                {
                    var digits = document.Substring(at + 1, 4);
                    if (!ushort.TryParse(digits, NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out var code))
                    {
                        throw Wrong();
                    }
                    made.Append((char)code);
                    at += 4;
                }
                else if (place >= 0 && escaped != '\0')
                {
                    made.Append("\b\f\n\r\t\"\\/"[place]);
                }
                else
                {
                    throw Wrong();
                }
            }
            throw Wrong();
        }
    }
}
