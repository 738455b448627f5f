"""Model folders of Hugging Face's transformers (config.json, safetensors, a tokenizer): read without running code of theirs."""
