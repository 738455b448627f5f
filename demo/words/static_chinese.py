"""The words of the static site that the pages which Python serves have no use for, in Chinese."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

WORDS: Mapping[str, str] = MappingProxyType(
    {
        "static.loading": "正在载入 {name}：{got} MB，共 {size} MB",
        "static.starting": "正在启动 {name}……",
        "static.testing": "{name} 正在自检……",
        "static.passed": "自检：{count} 项中有 {passed} 项符合预期，最大差别 {difference}。",
        "static.failed": "自检没有通过：{count} 项中有 {failed} 项不符合预期。不要相信这个模型在这里给出的答案。",
        "static.test": "自检",
        "static.test.words": "模型在回答之前，先计算自己文件中的标准样本，再把结果与文件中记录的预期结果比较。",
        "static.test.columns": "样本|输出|最大差别|结果",
        "static.test.ok": "符合预期",
        "static.break": "破坏它",
        "static.mend": "修复它",
        "static.break.words": "在本页的内存中改写权重的 2,000 个字节。自检会发现它。",
        "static.broken": "权重中有 2,000 个字节被改写。",
        "static.took": "从落笔到答案 {took} ms，其中网络用了 {network} ms。",
        "static.took.image": "用时 {took} ms，其中网络用了 {network} ms。",
        "static.speed": "每秒 {speed} 个字母",
        "static.runs on": "在这个浏览器中运行，使用 onnxruntime-web {version}（WebAssembly，{threads} 个线程）。你写的和画的都不会离开这台设备。",
        "static.runs on.one": "在这个浏览器中运行，使用 onnxruntime-web {version}（WebAssembly，1 个线程）。你写的和画的都不会离开这台设备。",
        "static.offline": "已存入这个浏览器：没有网络也能使用。",
        "static.storing": "正在存储网页，以便离线使用：{done}/{count}",
        "static.full": "浏览器的存储空间已满，或不允许本页使用（{reason}）：网页可以使用，但需要网络连接。",
        "static.saving": "这台设备在节省流量，所以没有存储网页供离线使用。",
        "static.insecure": "通过 https 或在 localhost 上，这些网页没有网络也能使用。",
        "static.no wasm": "这个浏览器没有 WebAssembly，或者它被关闭了，所以模型无法在这里运行。请打开它，或使用新版的 Firefox、Chrome、Edge 或 Safari。",
        "static.no simd": "这个浏览器或处理器不支持 WebAssembly SIMD，所以模型无法在这里运行。请使用新版的 Firefox、Chrome、Edge 或 Safari。",
        "static.cut": "{file} 没有传完：{size} 字节中只到了 {got} 字节。请检查网络连接，然后重新载入网页。",
        "static.changed": "{file} 已损坏，或属于这个网站的另一个版本：它的 SHA-256 与预期不符。请重新载入网页。",
        "static.unreachable": "无法载入 {file}（{reason}）。请检查网络连接，然后重新载入网页。",
        "static.cannot run": "模型无法在这里运行（{reason}）。请重新载入网页。",
        "static.again": "重新载入",
        "static.no image": "{name} 不是这个浏览器能读取的图像；应为 PNG、JPEG、GIF、BMP 或 WebP。",
        "static.large image": "{name} 有 {size} 百万像素；请缩小到不超过 {most} 百万像素。",
        "static.choose": "选择一张图像",
        "static.drop": "或拖到这里，或粘贴",
    }
)
