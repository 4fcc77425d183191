# shellcheck shell=bash
# character_tokenizer FILE: small models have no tokenizer, or a small one; one of single characters serves all of them (other characters are dropped).
character_tokenizer() {
  local id=4 letter
  {
    printf '{"added_tokens": [], "model": {"type": "BPE", "merges": [], "vocab": {" ": 0, "\\n": 1, ".": 2, ",": 3'
    for letter in {a..z} {A..Z} {0..9}; do printf ', "%s": %d' "$letter" $id; id=$((id + 1)); done
    printf '}}}\n'
  } >"$1"
}
