# ggembed_sanitize(<target>): applies GGEMBED_SANITIZE to one of our targets or of upstream's.
function(ggembed_sanitize target)
  list(JOIN GGEMBED_SANITIZE "," sanitizers)
  if(sanitizers)
    target_compile_options(${target} PRIVATE -fsanitize=${sanitizers} -fno-omit-frame-pointer)
    target_link_options(${target} PRIVATE -fsanitize=${sanitizers})
  endif()
endfunction()

# ggembed_sanitize_strictly(<target>): as above, and undefined behaviour ends the process. For our own code; upstream's
# findings are printed only.
function(ggembed_sanitize_strictly target)
  ggembed_sanitize(${target})
  if("undefined" IN_LIST GGEMBED_SANITIZE)
    target_compile_options(${target} PRIVATE -fno-sanitize-recover=undefined)
  endif()
endfunction()
