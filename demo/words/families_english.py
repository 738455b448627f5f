"""What each family of networks is and how it learns, in English. Texts are Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

WORDS: Mapping[str, str] = MappingProxyType(
    {
        "family.cnn.title": "Convolutional network: recognises",
        "family.cnn.what": "A small window slides over the image and reacts to one pattern, an edge or a curve, wherever it stands. Layers of such windows stack: curves become loops, loops become an eight. Shortcuts around the layers (*residual* connections) let a deep stack learn as easily as a shallow one. The last layer gives each class a score, and *softmax* turns scores into probabilities. In the file, a first stage brings an image of any size to what the network reads.",
        "family.cnn.learns": "It is shown a labelled image, and every weight is nudged in the direction that makes the right class likelier; some thousands of nudges later it reads images that it has never seen.",
        "family.cnn.symbols": "$s_k$: the score of class $k$; $p_k$: its probability; $\\mathcal{L}$: the loss, 0 when the right class gets everything.",
        "family.detector.title": "One-stage detector: finds",
        "family.detector.what": "Layers of small windows shrink the image to coarse maps and grow it again, so that each cell of 4 × 4 pixels knows both the fine strokes and what lies around. Each cell says how likely the middle of each kind of object lies in it, and how large that object's box is. Of boxes that overlap only the likeliest stays (*non-maximum suppression*). All of it is in the file: image in, boxes in its own pixels out.",
        "family.detector.learns": "It is shown scenes with their boxes. Cells at the middle of an object are pushed to say so, all others to be silent, and the boxes are moved until they cover the true ones.",
        "family.detector.symbols": "$p$: what a cell says of a class; $y$: 1 in the middle of an object, a bell around it; $b, \\hat{b}$: true and found box; $\\mathcal{L}$: the loss.",
        "family.rnn.title": "Recurrent network: writes",
        "family.rnn.what": "It reads a text one byte at a time and keeps a *state*, a few thousand numbers that stand for all it has read. *Gates* decide what is forgotten, what is added and what is shown. From the state comes a probability for each of the 256 bytes that could follow; one is drawn, read in turn, and so on. In the file the whole loop is one graph: prompt in, text out.",
        "family.rnn.learns": "It guesses each next byte of the plays. The surprise at what really comes is pushed back through time, and the weights move so that it would have been smaller.",
        "family.rnn.symbols": "$c_t, h_t$: the state after byte $x_t$; $f_t, i_t, o_t$: forget, input and output gates, between 0 and 1; $\\mathcal{L}$: mean surprise, in nats a byte.",
        "family.text-classifier.title": "Attention over words: judges a text",
        "family.text-classifier.what": "Two networks read the same words. One keeps a number for each word, pair and three of words in a row, and adds them up. The other reads the words from both ends with a recurrent network, and *attention* says how much each place counts. The answer is the mean of both. Words have no list: a *hash*, a number made of their letters, says where theirs stands. In the file all of this is one graph: bytes in, answer and words that decided out.",
        "family.text-classifier.learns": "It is shown a text and its class, and each of the two networks is nudged by itself, so that neither leaves the work to the other. Words are left out at random, so that it does not rely on a few.",
        "family.text-classifier.symbols": "$h_i$: the recurrent network's numbers at word $i$ of $n$; $a_i$: its attention; $G_i$: the n-grams that begin there, $w_g$ the numbers of one; $W, U, v, b$: weights; $z$: the scores of the classes, $p$ their probabilities.",
        "family.seq2seq.title": "Encoder and decoder with attention: translates",
        "family.seq2seq.what": "The *encoder* reads a text one byte at a time, from both ends, and leaves a few hundred numbers at each byte. The *decoder* writes the translation byte by byte. Before each it looks back: *attention* weighs all places of the text, and the weighted mean of what stands there is the *context* that it writes from. In the file the whole search is one graph, greedy or with several *beams*: text in, translations and attention out.",
        "family.seq2seq.learns": "It is shown pairs of texts. At each byte it is given the true bytes before and guesses the next; where to look is not given, and is learned because a better look makes a better guess.",
        "family.seq2seq.symbols": "$h_i$: the encoder's numbers at place $i$; $s_t$: the decoder's state; $\\alpha_{ti}$: the attention, which sums to 1; $c_t$: the context; $W, U, v$: weights.",
        "family.gan.title": "Generative adversarial network: imagines",
        "family.gan.what": "Two networks play against each other. The *generator* turns random numbers and a class into an image; the *discriminator* looks at real and generated images and says which is which. Only the generator is shipped: nearby random numbers make similar images, so one can walk from one to another.",
        "family.gan.learns": "The discriminator is rewarded for telling them apart, the generator for fooling it. Each gets better because the other does. Which moment of the game is kept is decided by how near the generated images are to held-out real ones.",
        "family.gan.symbols": "$x$: a real image; $y$: its class; $z$: noise; $G$: the generator; $D$: the discriminator's score, high for real.",
        "family.ae.title": "Autoencoder: compresses",
        "family.ae.what": "An *encoder* squeezes an image through a bottleneck of a few numbers, and a *decoder* has to draw it again from those alone. What the few numbers hold is what matters about such images. An image of another kind does not fit through: it comes back wrong, and how wrong is its anomaly score.",
        "family.ae.learns": "It needs no labels: the image itself is the answer. The weights move so that the drawing comes nearer to the original. The anomaly threshold is the score that 99 of 100 held-out images stay below.",
        "family.ae.symbols": "$x$: the image's $n$ pixels, 0 to 1; $e, d$: encoder and decoder; $z$: the latent numbers; $\\hat{x}$: the drawing.",
    }
)
