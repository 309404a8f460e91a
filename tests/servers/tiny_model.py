"""Write a llama model of 300 tokens and random weights: python tiny_model.py FILE.

It answers with random letters and never ends by itself. Runs in the environment of
llama-cpp-python, with its package gguf.
"""

import sys

import gguf
import numpy as np

_WIDTH, _HEADS, _INNER, _CONTEXT = 64, 2, 128, 32768
_WORDS = [f"▁{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]


def write(path: str) -> None:
    """Write the model as GGUF."""
    random = np.random.default_rng(1)
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *_WORDS]
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    kinds += [gguf.TokenType.BYTE] * 256 + [gguf.TokenType.NORMAL] * len(_WORDS)
    out = gguf.GGUFWriter(path, "llama")
    out.add_context_length(_CONTEXT)
    out.add_embedding_length(_WIDTH)
    out.add_block_count(1)
    out.add_feed_forward_length(_INNER)
    out.add_head_count(_HEADS)
    out.add_head_count_kv(_HEADS)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_rope_dimension_count(_WIDTH // _HEADS)
    out.add_vocab_size(len(tokens))
    out.add_tokenizer_model("llama")
    out.add_token_list(tokens)
    out.add_token_scores([0.0] * len(tokens))
    out.add_token_types(kinds)
    out.add_bos_token_id(1)
    out.add_eos_token_id(2)
    shapes = {
        "token_embd": (len(tokens), _WIDTH),
        "output": (len(tokens), _WIDTH),
        "blk.0.attn_q": (_WIDTH, _WIDTH),
        "blk.0.attn_k": (_WIDTH, _WIDTH),
        "blk.0.attn_v": (_WIDTH, _WIDTH),
        "blk.0.attn_output": (_WIDTH, _WIDTH),
        "blk.0.ffn_gate": (_INNER, _WIDTH),
        "blk.0.ffn_up": (_INNER, _WIDTH),
        "blk.0.ffn_down": (_WIDTH, _INNER),
    }
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        out.add_tensor(f"{name}.weight", np.ones(_WIDTH, dtype=np.float32))
    for name, shape in shapes.items():
        weights = random.normal(0, 0.05, shape).astype(np.float32)
        # One dimension is alike for each token, so its weight is a bias: bytes, of which few make
        # text, and the end of the answer are next to impossible, unless a grammar wants them.
        if name == "token_embd":
            weights[:, 0] = 3.0
        elif name == "output":
            weights[: len(tokens) - len(_WORDS), 0] = -10.0
        out.add_tensor(f"{name}.weight", weights)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


if __name__ == "__main__":
    write(sys.argv[1])
