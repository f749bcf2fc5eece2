# Of the interactive shell of `capsule debug`.
PS1='debug \h:\w\$ '
HISTFILE=
alias ll='ls -l'
export PAGER=less LESS=-R EDITOR=vi
cat <<'TEXT'
The capsule's root is /host, its data /perm; processes, devices and network are the capsule's own.
/tmp and /root are in memory and gone with this session. chroot /host ctr -n capsule … asks containerd.
TEXT
