"""Every word that the pages show, in English and Chinese, by key; and the language of the visitor."""
