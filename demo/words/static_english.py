"""The words of the static site that the pages which Python serves have no use for, in English."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

WORDS: Mapping[str, str] = MappingProxyType(
    {
        "static.loading": "Loading {name}: {got} of {size} MB",
        "static.starting": "Starting {name} …",
        "static.testing": "Running the self-test of {name} …",
        "static.passed": "Self-test: {passed} of {count} as expected, largest difference {difference}.",
        "static.failed": "Self-test failed: {failed} of {count} are not as expected. Do not trust what this model says here.",
        "static.test": "Self-test",
        "static.test.words": "Before a model answers, it computes the golden samples in its own file, and what comes out is compared with "
        "what the file says must come out.",
        "static.test.columns": "sample|output|largest difference|result",
        "static.test.ok": "as expected",
        "static.break": "Damage it",
        "static.mend": "Repair it",
        "static.break.words": "Overwrites 2,000 bytes of the weights in this page's memory. The self-test finds it.",
        "static.broken": "2,000 bytes of the weights are overwritten.",
        "static.took": "{took} ms from the pen to the answer, {network} ms of them in the network.",
        "static.took.image": "{took} ms, {network} ms of them in the network.",
        "static.speed": "{speed} letters a second",
        "static.runs on": "Runs in this browser, on onnxruntime-web {version} (WebAssembly, {threads} threads). Nothing that you draw or type "
        "leaves this device.",
        "static.runs on.one": "Runs in this browser, on onnxruntime-web {version} (WebAssembly, 1 thread). Nothing that you draw or type leaves "
        "this device.",
        "static.offline": "Stored in this browser: the pages work without a connection now.",
        "static.storing": "Storing the pages for use without a connection: {done} of {count}",
        "static.full": "This browser's storage is full or closed to this page ({reason}): the pages work, but only with a connection.",
        "static.saving": "The pages are not stored for use without a connection, as this device saves data.",
        "static.insecure": "Over https or on localhost the pages would also work without a connection.",
        "static.no wasm": "This browser has no WebAssembly, or it is switched off, so no model can run here. Switch it on, or take a current "
        "Firefox, Chrome, Edge or Safari.",
        "static.no simd": "This browser or processor has no WebAssembly SIMD, so no model can run here. Take a current Firefox, Chrome, Edge "
        "or Safari.",
        "static.cut": "{file} arrived cut off: {got} of {size} bytes. Check the connection and load the page again.",
        "static.changed": "{file} arrived damaged, or belongs to another version of this site: its SHA-256 is not the expected one. Load the page "
        "again.",
        "static.unreachable": "{file} cannot be loaded ({reason}). Check the connection and load the page again.",
        "static.cannot run": "The model cannot run here ({reason}). Load the page again.",
        "static.again": "Load again",
        "static.no image": "{name} is not an image that this browser can read; expected PNG, JPEG, GIF, BMP or WebP.",
        "static.large image": "{name} has {size} megapixels; shrink it to at most {most}.",
        "static.choose": "Choose an image",
        "static.drop": "or drop one here, or paste it",
    }
)
