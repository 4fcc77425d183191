# shellcheck shell=bash
# shellcheck disable=SC2154  # _voronoi_commands and _voronoi_options: `document` writes them before this text
# The lines of _voronoi_options: COMMAND --NAME ARGUMENT CHOICES..., ARGUMENT "-" for switches; COMMAND positional KIND.

# Candidates of words that begin as $2 does; $1 is the kind that --help shows, the rest the choices.
_voronoi_values() {
  local kind=$1 current=$2 before=
  shift 2
  case $kind in
    NAME | BOOL) mapfile -t COMPREPLY < <(compgen -W "$*" -- "$current") ;;
    LIST)  # the last word between commas
      case $current in *,*) before=${current%,*}, ;; esac
      mapfile -t COMPREPLY < <(compgen -P "$before" -W "$*" -- "${current##*,}")
      compopt -o nospace 2>/dev/null
      ;;
    DIR | RUN) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -d -- "$current") ;;
    PATH | FILE) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$current") ;;
  esac
}

_voronoi() {
  local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} command=${COMP_WORDS[1]} of name kind choices
  local options=() positional=
  COMPREPLY=()
  if [ "$COMP_CWORD" = 1 ]; then
    mapfile -t COMPREPLY < <(compgen -W "$_voronoi_commands --help --version" -- "$current")
    return
  fi
  # --name=value comes as three words.
  if [ "$current" = = ]; then current=; elif [ "$previous" = = ]; then previous=${COMP_WORDS[COMP_CWORD - 2]}; fi
  while read -r of name kind choices; do
    [ "$of" = "$command" ] || continue
    if [ "$name" = positional ]; then positional=$kind; continue; fi
    if [ "$name" = "$previous" ] && [ "$kind" != - ]; then
      # shellcheck disable=SC2086  # choices are words
      _voronoi_values "$kind" "$current" $choices
      return
    fi
    options+=("$name")
  done <<<"$_voronoi_options"
  if [ -n "$positional" ] && [ "${current:0:1}" != - ]; then
    _voronoi_values "$positional" "$current"
  else
    mapfile -t COMPREPLY < <(compgen -W "${options[*]}" -- "$current")
  fi
}

complete -F _voronoi voronoi
