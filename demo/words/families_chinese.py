"""What each family of networks is and how it learns, in Chinese. Texts are Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

WORDS: Mapping[str, str] = MappingProxyType(
    {
        "family.cnn.title": "卷积网络：识别",
        "family.cnn.what": "一个小窗口在图像上滑动，对某一种图案（一条边、一段弧线）作出反应，不论它出现在哪里。这样的窗口一层层叠起来：弧线变成圆环，圆环变成 8。绕过各层的捷径（*残差*连接）让很深的网络也能像浅的一样容易学习。最后一层给每个类别一个分数，*softmax* 把分数变成概率。在文件中，最前面还有一步，把任意大小的图像变成网络能读的大小。",
        "family.cnn.learns": "给它看一张有标签的图像，每个权重都朝着使正确类别更可能的方向移动一点；几千次之后，它就能识别从未见过的图像。",
        "family.cnn.symbols": "$s_k$：类别 $k$ 的分数；$p_k$：它的概率；$\\mathcal{L}$：损失，正确类别得到全部概率时为 0。",
        "family.rnn.title": "循环网络：续写",
        "family.rnn.what": "它逐字节阅读文本，并保持一个*状态*：几千个数，代表它读过的一切。*门*决定忘记什么、加入什么、显示什么。由状态得出 256 个可能的下一字节各自的概率；抽取一个，再读进去，如此反复。在文件中，整个循环就是一张图：输入开头，输出文本。",
        "family.rnn.learns": "它猜测剧本的每个下一字节。真实字节带来的意外沿时间往回传，权重随之移动，使意外本可以更小。",
        "family.rnn.symbols": "$c_t, h_t$：读过字节 $x_t$ 之后的状态；$f_t, i_t, o_t$：遗忘门、输入门和输出门，在 0 和 1 之间；$\\mathcal{L}$：平均意外程度，单位是每字节奈特。",
        "family.gan.title": "生成对抗网络：生成",
        "family.gan.what": "两个网络互相对抗。*生成器*把随机数和类别变成图像；*判别器*看真实的和生成的图像，说出哪个是哪个。只附带生成器：相近的随机数得到相似的图像，因此可以从一张走到另一张。",
        "family.gan.learns": "判别器因分清真假而得分，生成器因骗过它而得分，双方因对方而进步。保留哪一刻，由生成的图像与留出的真实图像有多接近来决定。",
        "family.gan.symbols": "$x$：真实图像；$y$：它的类别；$z$：噪声；$G$：生成器；$D$：判别器的分数，真实时高。",
        "family.ae.title": "自编码器：压缩",
        "family.ae.what": "*编码器*把图像挤过只有几个数的瓶颈，*解码器*只凭这几个数把它重新画出来。这几个数所保存的，就是这类图像中重要的东西。另一类图像通不过去：它会变样，变样的程度就是异常分数。",
        "family.ae.learns": "它不需要标签：图像本身就是答案。权重移动，使画出的图像更接近原图。异常阈值是 100 张留出图像中有 99 张低于它的分数。",
        "family.ae.symbols": "$x$：图像的 $n$ 个像素，0 到 1；$e, d$：编码器和解码器；$z$：隐变量；$\\hat{x}$：画出的图像。",
    }
)
