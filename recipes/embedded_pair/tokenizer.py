"""The tokenizer that expert and amateur share: byte-level BPE with one token per digit, ChatML.

pytest tests/unit/test_embedded.py -k tokenizer
"""

import itertools
import random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lr_ray.embedded.problems import stream
from recipes.embedded_pair.documents import END, reply

PAD = "<|endoftext|>"
START = "<|im_start|>"
VOCABULARY = 590
CORPUS_STYLES = ("worked", "jump", "slip", "quick", "ramble")
MAX_LENGTH = 512
# Role names never appear in the corpus and would otherwise fall apart into bytes.
CHAT_WORDS = "user\nassistant\nsystem\n"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def build(documents: int = 4000) -> PreTrainedTokenizerFast:
    """Trains the tokenizer; the corpus is fixed, so every pair made by the recipe shares it."""
    rng = random.Random("tokenizer")
    corpus = [CHAT_WORDS] * documents
    for problem in itertools.islice(stream("pretraining", 0), documents):
        corpus.append(problem.text + "\n" + reply(problem, rng.choice(CORPUS_STYLES), rng))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, START, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        model_max_length=MAX_LENGTH,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
